"""A step of pre-training against the official code, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch.testing import assert_close

import clipdense
from clipdense.methods.blip.checkpoint import from_official
from clipdense.methods.blip.losses import matching_loss, negative_weights, soft_cross_entropy
from clipdense.methods.blip.momentum import MomentumModel, Queue
from clipdense.methods.blip.pretrainer import BlipPretrainer
from clipdense.methods.blip.tokenizer import Tokens
from clipdense.utils.errors import InputError

from .conftest import HEADS, PRETRAIN_IDS, state_of, twice

TIGHT = {'atol': 1e-5, 'rtol': 1e-5}


def trainer_of(official, tensors, meta, alpha):
    """The state before the step: weights, momentum weights, queue."""
    trainer = BlipPretrainer(official('pretrain'), queue_size=12, momentum=0.9, alpha=alpha).eval()
    state = state_of(tensors, 'state.')
    slow = {name.replace('_m.', '.'): value for name, value in state.items() if '_m.' in name}
    slow = twice({**state, **slow}, meta['shared_between_encoder_and_decoder'])
    trainer.averages = MomentumModel(from_official(slow, **HEADS, ids=PRETRAIN_IDS), 0.9).eval()
    trainer.queue.image.copy_(tensors['state.image_queue'])
    trainer.queue.text.copy_(tensors['state.text_queue'])
    trainer.queue.place.copy_(tensors['state.queue_ptr'][0])
    return trainer


@pytest.mark.parametrize(('case', 'alpha'), [('alpha0', 0.0), ('alpha4', 0.4)])
def test_the_official_step(official, golden, case, alpha):
    tensors, meta = golden('blip_pretrain_tiny')
    trainer = trainer_of(official, tensors, meta, alpha)
    images = tensors['input.pixel_values'].requires_grad_()
    seen = {}

    def draw(*weights):
        seen['t2i'], seen['i2t'] = weights
        return tensors[f'input.{case}.negative_image'], tensors[f'input.{case}.negative_text']

    texts = Tokens(tensors['input.input_ids'], tensors['input.attention_mask'])
    losses = trainer.losses(images, texts, draw=draw)
    for name, ours in (('ita', 'contrastive_loss'), ('itm', 'matching_loss'), ('lm', 'language_loss')):
        assert_close(losses[ours], tensors[f'output.{case}.loss_{name}'], **TIGHT)
    for name, weights in seen.items():
        assert_close(weights, tensors[f'output.{case}.weights_{name}'], **TIGHT)
    for name in ('image', 'text'):
        assert_close(getattr(trainer.queue, name), tensors[f'output.{name}_queue'], **TIGHT)
    assert int(trainer.queue.place) == int(tensors['output.queue_ptr'][0])
    query = trainer.averages.encoder.layers[0].self_attn.attn.qkv.weight.chunk(3)[0]
    expected = tensors['output.momentum.text_encoder_m.encoder.layer.0.attention.self.query.weight']
    assert_close(query, expected, **TIGHT)
    slow = tensors['output.momentum.vision_proj_m.weight']
    assert_close(trainer.averages.joint.image.weight, slow, **TIGHT)

    sum(losses.values()).backward()
    blip, grad = trainer.blip, f'grad.{case}'
    layer = blip.encoder.layers[0]
    for found, name in (
        (images.grad, 'pixel_values'),
        (blip.joint.temperature.grad, 'temp'),
        (layer.feed.mlp.fc1.weight.grad, 'text_encoder.encoder.layer.0.intermediate.dense.weight'),
        (layer.cross.q.weight.grad, 'text_encoder.encoder.layer.0.crossattention.self.query.weight'),
        (
            layer.self_attn.attn.qkv.weight.grad.chunk(3)[0],
            'text_encoder.encoder.layer.0.attention.self.query.weight',
        ),
        (
            blip.decoder.layers[0].self_attn.attn.qkv.weight.grad.chunk(3)[0],
            'text_decoder.bert.encoder.layer.0.attention.self.query.weight',
        ),
    ):
        assert_close(found, tensors[f'{grad}.{name}'], **TIGHT)


def test_soft_targets_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]])
    one_hot = soft_cross_entropy(logits, torch.zeros(2, 3), 0.0)
    assert_close(one_hot, torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])))
    uniform = soft_cross_entropy(logits, torch.zeros(2, 3), 0.3)
    rows = logits.log_softmax(1)
    assert_close(uniform, 0.7 * one_hot - 0.3 * rows.mean(1).mean())


def test_negatives_and_matches_by_hand():
    weights = negative_weights(torch.zeros(4, 4))
    assert_close(weights, (0.25 + 1e-4) * (1 - torch.eye(4)))
    scores = torch.tensor([[0.0, 2.0], [1.0, 0.0], [3.0, 0.0]])
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([1, 0, 0]))
    assert_close(matching_loss(scores, 1), expected)


@pytest.mark.parametrize('count', [1, 3, 5])
def test_the_queue_wraps(count):
    """Also where the size of a step does not divide that of the queue."""
    queue = Queue(2, 5)
    for step in range(4):
        values = torch.full((count, 2), float(step))
        queue.write(values, -values)
    kept = queue.image[0].tolist()
    expected = [step for step in range(4) for _ in range(count)][-5:]
    assert sorted(value for value in kept if value in range(4))[-len(expected) :] == sorted(expected)
    written = [(4 * count - 1 - back) % 5 for back in range(min(4 * count, 5))]
    assert torch.equal(queue.text[:, written], -queue.image[:, written])
    assert int(queue.place) == 4 * count % 5
    with pytest.raises(InputError, match='a step has 6 pairs, more than the queue of 5'):
        queue.write(torch.zeros(6, 2), torch.zeros(6, 2))


@pytest.fixture
def batch():
    ids = torch.tensor([[2, 7, 8, 3], [2, 9, 3, -1], [2, 10, 11, 3]])
    return {'images': torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), 'token_ids': ids}


def step_of(trainer, batch, optimizer):
    data = trainer.data_preprocessor(dict(batch), True)
    losses = trainer(**data, mode='loss')
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    trainer.steps += 1
    return [float(value) for value in losses.values()]


def test_a_resumed_run_is_the_same(tiny, batch):
    """Everything that a step changes is in the state: weights, averages, queue, ramp."""
    first = BlipPretrainer(tiny(), queue_size=6, ramp_steps=4).train()
    optimizer = torch.optim.SGD(first.blip.parameters(), lr=0.1)
    for _ in range(2):
        step_of(first, batch, optimizer)
    second = BlipPretrainer(tiny(), queue_size=6, ramp_steps=4).train()
    second.load_state_dict(first.state_dict())
    results = []
    for trainer in (first, second):
        torch.manual_seed(1)
        results.append(step_of(trainer, batch, torch.optim.SGD(trainer.blip.parameters(), lr=0.1)))
    assert results[0] == results[1]
    assert all(
        torch.equal(one, two)
        for one, two in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_step_of_the_engine_and_its_checkpoint(tiny, batch, tmp_path):
    trainer = BlipPretrainer(tiny(), queue_size=6).train()
    wrapper = OptimWrapper(torch.optim.AdamW(trainer.blip.parameters(), lr=1e-3))
    before = trainer.blip.decoder.head.bias.detach().clone()
    logged = trainer.train_step(dict(batch), wrapper)
    assert {'loss', 'contrastive_loss', 'matching_loss', 'language_loss', 'temperature'} <= set(logged)
    assert not torch.equal(before, trainer.blip.decoder.head.bias)
    assert int(trainer.steps) == 1
    assert int(trainer.queue.place) == 3
    file = tmp_path / 'step_1.pth'
    torch.save({'state_dict': trainer.state_dict(), 'meta': trainer.checkpoint_meta()}, file)
    again = clipdense.load(file, device='cpu')
    for name, value in trainer.blip.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_it_learns(tiny, batch):
    trainer = BlipPretrainer(tiny(), queue_size=0, alpha=0.0).eval()
    optimizer = torch.optim.Adam(trainer.blip.parameters(), lr=3e-3)
    history = [sum(step_of(trainer, batch, optimizer)) for _ in range(60)]
    assert history[-1] < 0.5 * history[0]


def test_identical_images_have_negatives(tiny, batch):
    trainer = BlipPretrainer(tiny(), queue_size=6)
    batch['images'] = batch['images'][:1].repeat(3, 1, 1, 1)
    losses = trainer(**trainer.data_preprocessor(batch, True), mode='loss')
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'alpha': 1.0}, 'alpha must be at least 0 and below 1'),
        ({'momentum': 1.0}, 'momentum must be at least 0 and below 1'),
        ({'queue_size': -1}, 'queue_size must be at least 0'),
        ({'ramp_steps': -1}, 'ramp_steps must be at least 0'),
        ({'smoothing': -0.1}, 'smoothing must be at least 0'),
    ],
)
def test_settings_that_are_refused(tiny, options, message):
    with pytest.raises(InputError, match=message):
        BlipPretrainer(tiny(), **options)


def test_models_and_batches_that_are_refused(tiny, batch):
    with pytest.raises(InputError, match='share their layers, with a matching head'):
        BlipPretrainer(tiny(encoder=False, embed_dim=0))
    trainer = BlipPretrainer(tiny(), queue_size=6)
    with pytest.raises(InputError, match='at least two pairs: got one pair'):
        trainer.check_batch(1)
    with pytest.raises(InputError, match='set drop_last=True'):
        trainer.check_batch(1, last=True)
    with pytest.raises(InputError, match='more than queue_size=6'):
        trainer.check_batch(8)
    images = torch.zeros(3, 3, 32, 32)
    for change, message in ((0, 'must start with the id 2'), (99, 'must start'), (-1, 'has no ids')):
        ids = batch['token_ids'].clone()
        ids[:, 0] = change
        with pytest.raises(InputError, match=message):
            trainer(images, ids, mode='loss')
    ids = batch['token_ids'].clone()
    ids[0, 1] = 60
    with pytest.raises(InputError, match='ids that the model does not have'):
        trainer(images, ids, mode='loss')
