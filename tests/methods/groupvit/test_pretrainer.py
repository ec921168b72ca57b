"""The pre-trainer: what is compared with what, whole gradients, and bad batches."""

from __future__ import annotations

import multiprocessing
from math import log

import pytest
import torch
import torch.distributed as dist
from mmengine.optim import OptimWrapper
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.clip.losses import text_numbers
from clipdense.engine import DistributedModel
from clipdense.methods.groupvit.background import background_loss
from clipdense.methods.groupvit.encoder import GroupFeatures
from clipdense.methods.groupvit.grouping import Assignment
from clipdense.methods.groupvit.pretrainer import GroupVitPretrainer, assignment_information
from clipdense.utils.errors import InputError

SOFT = {'assign': 'soft'}  # without noise, so that runs can be compared


def batch(pairs=6, prompts=3):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (pairs, 3, 16, 16), dtype=torch.uint8, generator=generator)
    ids = torch.randint(1, 49, (pairs, 1 + prompts, 8), generator=generator)
    ids[..., 5] = 49
    return {
        'images': images,
        'token_ids': ids[:, 0],
        'prompt_ids': ids[:, 1:],
        'phrases': torch.arange(pairs * prompts).view(pairs, prompts) % 5,
    }


class KeepGradients(OptimWrapper):
    """An optimiser that steps, and leaves the gradients to be looked at."""

    def zero_grad(self, **_):
        pass


def step(model, data, lr=0.0):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    return model.train_step(data, KeepGradients(optimizer))


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'form': 'sum'},
        {'equal_texts_match': True},
        {'multi_label_weight': 0.0},
        {'background_weight': 0.5},
        {'balance_weight': 0.5},
    ],
    ids=str,
)
def test_every_parameter_learns(tiny, options):
    clip = tiny()
    clip.background = torch.nn.Parameter(torch.randn(8))
    model = GroupVitPretrainer(clip, **options).train()
    out = step(model, batch())
    assert out['loss'].isfinite()
    expected = {'contrastive_loss', 'multi_label_loss'}
    expected |= {f'{name}_loss' for name in ('background', 'balance') if f'{name}_weight' in options}
    if 'multi_label_weight' in options:
        expected.remove('multi_label_loss')
    assert {name for name in out if name.endswith('_loss')} == expected
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle


def test_it_learns_a_batch_by_heart(tiny):
    model = GroupVitPretrainer(tiny(**SOFT), equal_texts_match=True).train()
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-2))
    losses = [model.train_step(batch(), optimizer)['loss'].item() for _ in range(80)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize('micro_batch', [2, 3])
def test_micro_batches_give_the_whole_gradient(tiny, micro_batch):
    """With batch norm at rest, which otherwise sees micro-batches."""
    models = [GroupVitPretrainer(tiny(**SOFT), micro_batch=size).eval() for size in (None, micro_batch)]
    first, second = (step(model, batch()) for model in models)
    assert_close(first['loss'], second['loss'])
    check_equal([p.grad for p in models[1].parameters()], models[0])


def test_equal_captions_are_wrong_for_each_other_as_released(tiny):
    data = batch()
    data['token_ids'] = data['token_ids'][:1].expand(6, -1)
    released = GroupVitPretrainer(tiny(), multi_label_weight=0).eval()
    matched = GroupVitPretrainer(tiny(), multi_label_weight=0, equal_texts_match=True).eval()
    assert step(released, data)['loss'].item() >= log(6) - 1e-4
    texts = normalize(torch.ones(6, 1, 8), dim=-1)
    images = normalize(torch.randn(6, 8), dim=-1)
    numbers = text_numbers(data['token_ids'])
    assert len(numbers.unique()) == 1
    # All six are right, so that no text is to be preferred; only the images may be told apart.
    nothing = torch.zeros(6, 0, 8), torch.zeros(6)
    alike = matched.loss(images[:1].expand(6, -1), texts, *nothing, captions=numbers)['contrastive_loss']
    assert alike.item() == pytest.approx(log(6), rel=1e-4)


def test_numbers_of_texts():
    ids = torch.randint(0, 49408, (500, 77))
    ids[7] = ids[3]
    numbers = text_numbers(ids)
    assert numbers[3] == numbers[7]
    assert len(numbers.unique()) == 499
    swapped = ids[:1].clone()
    swapped[0, [4, 5]] = swapped[0, [5, 4]]
    assert text_numbers(swapped) != numbers[0]


def test_scales_are_clamped(tiny):
    model = GroupVitPretrainer(tiny())
    model.clip.logit_scale.data.fill_(9)
    model.clip.multi_label_logit_scale.data.fill_(-3)
    step(model.train(), batch())
    assert model.clip.logit_scale.item() == pytest.approx(log(100))
    assert model.clip.multi_label_logit_scale.item() == 0


@pytest.mark.parametrize('same', [False, True], ids=['each its own', 'shared phrases'])
def test_background_loss_by_hand(same):
    """Two images with one phrase each; group 0 shows the phrase, group 1 the background."""
    axes = torch.eye(3)
    groups = torch.stack([torch.stack([axes[0], axes[2]]), torch.stack([axes[1], axes[2]])])  # (2, 2, 3)
    prompts = axes[:2, None]
    phrases = torch.tensor([[0], [1]]) if same else None
    loss = background_loss(groups, prompts, axes[2], 20.0, phrases)
    wrong = background_loss(groups, prompts.flip(0), axes[2], 20.0, phrases)
    assert loss.item() < 1e-6
    assert wrong.item() > 10


@pytest.mark.parametrize(
    ('shown', 'rejected', 'found', 'told_apart'),
    [
        # Nothing is refused, but each phrase loses to the background, and the images are alike.
        ('background', 0, 20 - log(2), log(2)),
        # Two choices 20 below are allowed; two groups have the phrase, 20 below; the images are swapped.
        ('the other', 20 - log(2), 20 - log(2), 20),
    ],
    ids=['background', 'the other'],
)
def test_background_loss_of_images_that_show_one_thing(shown, rejected, found, told_apart):
    """Two images with one phrase each, axes 0 and 1; both groups show axis 2, or the other's phrase."""
    axes = torch.eye(3)
    groups = axes[[2, 2]] if shown == 'background' else axes[[1, 0]]
    groups = groups[:, None].expand(-1, 2, -1)  # (2, 2, 3)
    loss = background_loss(groups, axes[:2, None], axes[2], 20.0)
    assert loss.item() == pytest.approx(rejected + found + told_apart, rel=1e-4)


@pytest.mark.parametrize(
    ('soft', 'expected'),
    [
        ([[1.0, 1.0], [0.0, 0.0]], 0.0),  # one group takes all
        ([[0.5, 0.5], [0.5, 0.5]], 0.0),  # nobody decides
        ([[1.0, 0.0], [0.0, 1.0]], 1.0),
    ],
    ids=['collapsed', 'undecided', 'parted'],
)
def test_information_by_hand(soft, expected):
    soft = torch.tensor([soft])
    features = GroupFeatures(torch.zeros(1, 4), torch.zeros(1, 2, 4), [Assignment(soft, soft)], (1, 2))
    assert assignment_information(features).tolist() == pytest.approx([expected], abs=1e-6)


def test_what_is_compared(tiny):
    """Images, captions before prompts, and groups, as the model itself embeds them."""
    clip = tiny().eval()
    clip.background = torch.nn.Parameter(torch.randn(8))
    model, data = GroupVitPretrainer(clip, background_weight=1.0).eval(), batch()
    part = {**data, 'images': model.data_preprocessor.normalize(data['images'])}
    images, texts, groups, information = model._encode(part)
    embedded = clip.encode_groups(part['images'])
    assert_close(images, embedded.image)
    assert_close(groups, embedded.groups)
    assert_close(texts[:, 0], clip.encode_text(data['token_ids'], normalize=True))
    assert_close(texts[:, 2], clip.encode_text(data['prompt_ids'][:, 1], normalize=True))
    assert information.shape == (6,)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda tiny: GroupVitPretrainer(tiny(multi_label=False)), 'no logit scale for the multi-label'),
        (lambda tiny: GroupVitPretrainer(tiny(), background_weight=1.0), 'background=True'),
        (lambda tiny: GroupVitPretrainer(tiny(), multi_label_weight=-1), 'got multi_label_weight=-1'),
        (lambda tiny: GroupVitPretrainer(tiny(), form='max'), "'mean' or 'sum'"),
        (
            lambda tiny: step(GroupVitPretrainer(tiny()), {**batch(), 'token_ids': batch()['token_ids'][:4]}),
            'got 6 images and 4 captions',
        ),
        (
            lambda tiny: step(
                GroupVitPretrainer(tiny()), {key: batch()[key] for key in ('images', 'token_ids')}
            ),
            'needs prompts',
        ),
        (lambda tiny: step(GroupVitPretrainer(tiny()).train(), batch(1)), 'at least two pairs'),
        (
            lambda tiny: step(GroupVitPretrainer(tiny(), micro_batch=2).train(), batch(3)),
            'a batch of 3 with micro_batch=2 leaves a remainder of one',
        ),
        (lambda tiny: GroupVitPretrainer(tiny(), micro_batch=0), 'micro_batch must be at least 1, got 0'),
    ],
)
def test_refusals(tiny, call, message):
    with pytest.raises(InputError, match=message):
        call(tiny)


def _doubled(_, inputs):
    return (inputs[0].double(),)


def _one_of_two(rank, store, model, queue):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    data = {name: value[3 * rank : 3 * rank + 3] for name, value in batch().items()}
    out = step(DistributedModel(model), data)
    parameters = list(model.parameters())
    queue.put((rank, out['loss'].item(), [p.grad.numpy() for p in parameters if p.grad is not None]))
    dist.destroy_process_group()


@pytest.mark.parametrize('options', [{'equal_texts_match': True}, {'background_weight': 1.0}], ids=str)
def test_two_processes_equal_one(tiny, tmp_path, options):
    """Losses are gathered and batch norm is synchronized.  Spawned, as launchers do it."""

    def model():
        clip = tiny(**SOFT)
        clip.background = torch.nn.Parameter(torch.ones(8))
        # A fresh tower sees almost the same in all images, and batch norm magnifies rounding.
        clip.image.patch_embed.register_forward_pre_hook(_doubled)
        return GroupVitPretrainer(clip.double(), **options).train()

    alone = model()
    whole = step(alone, batch())['loss'].item()
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    workers = [
        context.Process(target=_one_of_two, args=(rank, tmp_path / 'store', model(), queue))
        for rank in (0, 1)
    ]
    for worker in workers:
        worker.start()
    found = {rank: (loss, grads) for rank, loss, grads in (queue.get(timeout=120) for _ in workers)}
    for worker in workers:
        worker.join()
    assert (found[0][0] + found[1][0]) / 2 == pytest.approx(whole, rel=1e-9)
    check_equal([torch.from_numpy(gradient) for gradient in found[0][1]], alone)


def check_equal(gradients, model):
    """Up to the rounding of fp32, beside the largest gradient of the model.

    Biases before a norm have a gradient of nothing but rounding.
    """
    expected = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    largest = max(gradient.abs().max().item() for _, gradient in expected)
    for (name, gradient), got in zip(expected, gradients, strict=True):
        assert_close(got, gradient, atol=3e-5 * largest, rtol=1e-3, msg=name)
