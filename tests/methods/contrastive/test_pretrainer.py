"""The pre-trainer: one step of each kind gives the gradient of the whole batch."""

from __future__ import annotations

from math import log
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.clip.losses import multi_label_loss
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.methods.contrastive import evaluation
from clipdense.methods.contrastive.patches import embed_patches
from clipdense.methods.contrastive.phrases import PhraseLoss
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer
from clipdense.structures import ClassEmbeddings, SegmentationSample
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

IMAGE = VitSize(image_size=16, patch_size=8, width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16)
TEXT = TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16, vocab_size=50, context_length=8)


def pretrainer(**options) -> ContrastivePretrainer:
    torch.manual_seed(0)
    sigmoid = options.get('loss') == 'sigmoid'
    return ContrastivePretrainer(build_clip(ClipSize(IMAGE, TEXT, logit_bias=sigmoid)), **options).train()


def batch(pairs: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (pairs, 3, 16, 16), dtype=torch.uint8, generator=generator)
    ids = torch.randint(1, 49, (pairs, 8), generator=generator)
    ids[:, 5] = 49
    return {'images': images, 'token_ids': ids}


class KeepGradients(OptimWrapper):
    """An optimiser that steps, and leaves the gradients to be looked at."""

    def zero_grad(self, **_):
        pass


def step(model: ContrastivePretrainer, lr: float = 0.0) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    return model.train_step(batch(), KeepGradients(optimizer))


@pytest.mark.parametrize(('size', 'said'), [((16, 16), False), ((24, 24), True), ((16, 32), True)])
def test_images_of_another_size_than_the_models_are_said_once(recwarn, size, said):
    model = pretrainer()
    data = {**batch(), 'images': torch.zeros(6, 3, *size, dtype=torch.uint8)}
    for _ in range(2):
        model.train_step(dict(data), KeepGradients(torch.optim.SGD(model.parameters(), lr=0.0)))
    lines = [str(warning.message) for warning in recwarn if 'pixels' in str(warning.message)]
    expected = f'the training images have {size[1]} x {size[0]} pixels, but the model is for 16 x 16'
    assert [expected in line for line in lines] == [True] * said


@pytest.mark.parametrize('loss', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('micro_batch', [1, 2, 4, 6])
def test_micro_batches_give_the_whole_gradient(loss, micro_batch):
    plain, cut = pretrainer(loss=loss), pretrainer(loss=loss, micro_batch=micro_batch)
    assert_close(step(plain)['loss'], step(cut)['loss'])
    for (name, expected), got in zip(plain.named_parameters(), cut.parameters(), strict=True):
        assert expected.grad is not None, name
        assert_close(got.grad, expected.grad, atol=5e-6, rtol=1e-4, msg=name)  # fp32 rounding


def test_the_scale_is_clamped_after_a_step():
    model = pretrainer()
    model.clip.logit_scale.data.fill_(9.0)
    assert step(model)['logit_scale'].item() == pytest.approx(100)
    assert model.clip.logit_scale.item() == pytest.approx(log(100))


def test_a_fixed_temperature_is_not_learned():
    model = pretrainer(temperature=0.1)
    assert not model.clip.logit_scale.requires_grad
    assert step(model)['logit_scale'].item() == pytest.approx(10)


@pytest.mark.parametrize(('locked', 'free'), [('image', 'text'), ('text', 'image')])
@pytest.mark.parametrize('micro_batch', [None, 2])
def test_a_locked_tower_stays_as_it_is(locked, free, micro_batch):
    model = pretrainer(**{f'lock_{locked}': True}, micro_batch=micro_batch)
    before = {name: value.clone() for name, value in model.clip.state_dict().items()}
    step(model, lr=0.1)
    changed = {name for name, value in model.clip.state_dict().items() if not value.equal(before[name])}
    assert {name.split('.')[0] for name in changed} == {free, 'logit_scale'}
    assert [getattr(model.clip, tower).training for tower in (locked, free)] == [False, True]


@pytest.mark.parametrize(
    ('groups', 'trained'), [(1, {'norm_post', 'proj'}), (2, {'norm_post', 'proj', 'blocks'})]
)
def test_the_last_groups_of_a_locked_tower_are_trained(groups, trained):
    model = pretrainer(lock_image=True, unlocked_groups=groups)
    before = {name: value.clone() for name, value in model.clip.image.state_dict().items()}
    step(model, lr=0.1)
    changed = {name for name, value in model.clip.image.state_dict().items() if not value.equal(before[name])}
    assert {name.split('.')[0] for name in changed} == trained


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'lock_image': True, 'lock_text': True}, 'leave no layers to train'),
        ({'unlocked_groups': 1}, 'unlocked_groups is for locked towers'),
        ({'lock_image': True, 'unlocked_groups': 3}, r'must be in 0 \.\. 2'),
    ],
)
def test_locks_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        pretrainer(**options)


def test_gradient_checkpointing_reaches_both_towers():
    model = pretrainer(gradient_checkpointing=True)
    assert model.clip.image.gradient_checkpointing
    assert model.clip.text.gradient_checkpointing


def test_it_learns_a_batch_by_heart():
    model = pretrainer()
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=3e-3))
    losses = [model.train_step(batch(), optimizer)['loss'].item() for _ in range(60)]
    assert losses[0] > 1
    assert losses[-1] < 0.2


def test_sigmoid_needs_a_bias():
    with pytest.raises(InputError, match='needs a model with a logit_bias'):
        ContrastivePretrainer(build_clip(ClipSize(IMAGE, TEXT)), loss='sigmoid')


def with_prompts(pairs: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, 49, (pairs, 3, 8), generator=generator)
    ids[..., 4] = 49
    return batch(pairs) | {'prompt_ids': ids, 'phrases': torch.arange(3 * pairs).view(pairs, 3) % 4}


@pytest.mark.parametrize('match', [False, True])
@pytest.mark.parametrize('patches', ['values', 'last'])
def test_phrases_meet_patches(match, patches):
    """The whole gradient in micro-batches, and the value from the loss functions themselves."""
    options = {'phrases': PhraseLoss(0.5, patches, equal_texts_match=match)}
    models = [pretrainer(**options, micro_batch=size) for size in (None, 2)]
    data = with_prompts()
    outs = [
        model.train_step(data, KeepGradients(torch.optim.SGD(model.parameters(), lr=0.0))) for model in models
    ]
    assert_close(outs[0]['loss'], outs[1]['loss'])
    for (name, p), q in zip(models[0].named_parameters(), models[1].named_parameters(), strict=True):
        assert_close(q[1].grad, p.grad, atol=5e-6, rtol=1e-3, msg=name)
    clip, scale = models[0].clip, models[0].logit_scale
    images = models[0].data_preprocessor.normalize(data['images'])
    inputs, grid = clip.image.forward_layers(images, [0, 1])
    tokens, block = inputs[1], clip.image.blocks[0]
    if patches == 'values':
        tokens = block.attn.merge(block.attn.split(block.norm1(inputs[0]))[2])
    embedded = normalize(clip.image.project_patches(tokens[:, 1:], grid).flatten(2).mT, dim=-1)
    prompts = clip.encode_text(data['prompt_ids'].flatten(0, 1), normalize=True).unflatten(0, (6, 3))
    pooled = multi_label_loss(embedded, prompts, scale, phrases=data['phrases'] if match else None)
    expected = models[0].loss(*clip(images, data['token_ids'])) + 0.5 * pooled
    assert_close(outs[0]['loss'], expected.detach())
    assert_close(models[0](**{**data, 'images': images}, mode='loss')['loss'], expected)  # as MMEngine asks


def test_phrases_need_patches_and_prompts():
    resnet = ResNetSize(image_size=32, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=16)
    with pytest.raises(InputError, match='needs a vision transformer as image tower, not ModifiedResNet'):
        ContrastivePretrainer(build_clip(ClipSize(resnet, TEXT)), phrases=PhraseLoss())
    with pytest.raises(InputError, match='needs phrases: set tokenizer'):
        step(pretrainer(phrases={'type': PhraseLoss}))
    with pytest.raises(InputError, match="'values' or 'last'"):
        PhraseLoss(patches='keys')
    with pytest.raises(InputError, match='weight of PhraseLoss must be positive, got 0'):
        PhraseLoss(weight=0)


class Halves:
    """Images whose left half is red and right half grey, labelled 'left' and background."""

    vocabulary = Vocabulary(('background', 'left', 'right'), background='background')

    def __len__(self):
        return 3

    def __getitem__(self, index):
        image = torch.full((3, 16, 16), 120, dtype=torch.uint8)
        image[0, :, :8] = 250
        mask = torch.zeros(16, 16, dtype=torch.int64)
        mask[:, :8] = 1
        return {'images': image, 'samples': SegmentationSample('', (16, 16), mask)}


@pytest.mark.parametrize('patches', ['values', 'last'])
def test_patches_segment(patches, monkeypatch):
    """The word 'left' lies where the left patches are; a threshold found elsewhere parts it from the rest."""
    clip = pretrainer().clip.eval()
    image = clip.preprocess.normalize(Halves()[0]['images'])[None]
    with torch.no_grad():
        embedded = normalize(embed_patches(clip.image, image, patches)[1], dim=1)[0]  # (D, 2, 2)
    left = embedded[:, 0, 0]
    queries = torch.stack([torch.zeros(16), left, -left])
    rows = SimpleNamespace(embed=lambda _: ClassEmbeddings(queries, torch.arange(3), 3))
    monkeypatch.setattr(clip, 'embedder', rows, raising=False)
    found = evaluation.PatchSegmentation(Halves(), Halves(), patches, name='x')(clip)
    assert found['x/background'] > 0.6
    assert found['x/miou'] > 0.6
    assert found['x/threshold'] <= 1


def test_patches_need_a_background():
    class Plain(Halves):
        vocabulary = Vocabulary(('left', 'right'))

    with pytest.raises(InputError, match='no background, which PatchSegmentation needs'):
        evaluation.PatchSegmentation(Plain(), Halves())
