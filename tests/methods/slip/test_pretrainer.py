"""SlipPretrainer: one step of each kind gives the gradient of the whole batch; what it refuses."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch.testing import assert_close

from clipdense.clip.checkpoint import load
from clipdense.clip.checkpoint import save as save_clip
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer
from clipdense.methods.slip.pretrainer import SlipPretrainer
from clipdense.methods.slip.simclr import SimClr
from clipdense.utils.errors import InputError


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize('clip_weight', [1.0, 0.0])
@pytest.mark.parametrize('micro_batch', [1, 2, 4, 6])
def test_micro_batches_give_the_whole_gradient(make, batch, step, micro_batch, clip_weight):
    plain, cut = (make(clip_weight=clip_weight, micro_batch=size).double() for size in (None, micro_batch))
    first, second = step(plain, batch()), step(cut, batch())
    for name, value in first.items():
        assert_close(second[name], value, atol=1e-10, rtol=1e-8)
    for name, expected in gradients(plain).items():
        assert_close(gradients(cut)[name], expected, atol=1e-10, rtol=1e-8, msg=name)
    assert_close(cut.partner.head.state_dict(), plain.partner.head.state_dict())  # statistics too


def test_losses_are_weighted_and_logged_without_their_weights(make, batch, step):
    once, twice = step(make(), batch()), step(make(ssl_scale=2.0, clip_weight=0.5), batch())
    assert_close(twice['ssl_loss'], once['ssl_loss'])
    assert_close(twice['clip_loss'], once['clip_loss'])
    assert_close(twice['loss'], 2 * once['ssl_loss'] + 0.5 * once['clip_loss'])


def test_without_views_it_is_the_contrastive_pretrainer(make, make_clip, batch, step):
    """The caption's part has the loss and the gradient of ``ContrastivePretrainer`` on the first images."""
    both, data = make(ssl_scale=1e-9), batch()
    alone = ContrastivePretrainer(make_clip()).train()
    found = step(both, dict(data))
    expected = step(alone, {**data, 'images': data['images'][:, 0]})
    assert_close(found['clip_loss'], expected['loss'])
    for name, p in alone.clip.named_parameters():
        assert_close(both.clip.get_parameter(name).grad, p.grad, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize('resnet', [False, True])
def test_the_tower_learns_alone(make, batch, step, resnet):
    """No captions; text tower, logit scale and projection stay as they are and are not trained."""
    model = make(resnet=resnet, clip_weight=0.0)
    data = batch(views=2, side=32 if resnet else 16)
    before = {name: value.clone() for name, value in model.clip.state_dict().items()}
    found = step(model, {'images': data['images'], 'labels': torch.zeros(6, dtype=torch.int64)}, lr=0.1)
    assert set(found) == {'loss', 'ssl_loss', 'ssl_accuracy'}
    frozen = {name for name, p in model.clip.named_parameters() if not p.requires_grad}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    projection = {'image.attn_pool.proj.weight', 'image.attn_pool.proj.bias'} if resnet else {'image.proj'}
    assert {name for name in frozen if name.startswith('image.')} == projection
    assert_close(model.clip.text.state_dict(), {n[5:]: v for n, v in before.items() if n.startswith('text.')})


def test_statistics_of_a_resnet_are_those_of_the_images_of_captions(make, make_clip, batch, step):
    both, data = make(resnet=True), batch(side=32)
    alone = ContrastivePretrainer(make_clip(resnet=True)).train()
    step(both, dict(data))
    step(alone, {**data, 'images': data['images'][:, 0]})
    for name, value in alone.clip.image.named_buffers():
        assert_close(both.clip.image.get_buffer(name), value, msg=name)
    without = make(resnet=True, clip_weight=0.0)
    step(without, data)
    assert without.clip.image.bn1.num_batches_tracked == 2


def test_the_serial_variant_goes_on_from_its_file(make, batch, step, tmp_path):
    first = make(clip_weight=0.0)
    step(first, batch(), lr=0.1)
    save_clip(first.clip.eval(), tmp_path / 'clip.safetensors')
    second = ContrastivePretrainer(str(tmp_path / 'clip.safetensors'))
    assert_close(second.clip.image.state_dict(), first.clip.image.state_dict())
    assert all(p.requires_grad for p in second.parameters())
    assert type(load(tmp_path / 'clip.safetensors')) is type(first.clip)


def test_it_learns_a_batch_by_heart(make, batch):
    model = make()
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=3e-3))
    found = [model.train_step(batch(), optimizer) for _ in range(60)]
    assert found[0]['clip_loss'] > 1
    assert found[-1]['clip_loss'] < 0.2
    assert found[-1]['ssl_loss'] < found[0]['ssl_loss'] / 2


REFUSED = {
    'no views': (
        {},
        lambda data: {**data, 'images': data['images'][:, 0]},
        r'SimClr needs 3 images per sample, got a batch \(6, 3, 16, 16\): set transform=dict\(type=Im',
    ),
    'one view': ({}, lambda data: {**data, 'images': data['images'][:, :2]}, 'needs 3 images per sample'),
    'images of several sizes': (
        {},
        lambda data: {**data, 'images': list(data['images'])},
        'got a batch 6 images of several sizes',
    ),
    'no captions': ({}, lambda data: {'images': data['images']}, r'no captions \(token_ids\).*clip_weight=0'),
    'a single image': (
        {},
        lambda data: {name: value[:1] for name, value in data.items()},
        'SLIP needs at least 2 images per step .batch norm.*got batch_size=1',
    ),
    'a single image without captions': (
        {'clip_weight': 0.0},
        lambda data: {'images': data['images'][:1]},
        'at least 2 images per step',
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_batches_that_are_refused(make, batch, step, case):
    options, change, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        step(make(**options), change(batch()))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'ssl_scale': 0}, 'ssl_scale must be a number above 0, got 0'),
        ({'ssl_scale': float('nan')}, 'ssl_scale must be a number above 0, got nan'),
        ({'clip_weight': -1}, 'clip_weight must be a number above 0, got -1'),
        ({'micro_batch': 0}, 'micro_batch must be a number above 0, got 0'),
        ({'partner': {'temperature': 0.0}}, 'temperature must be a number above 0, got 0.0'),
        ({'partner': {'hidden': '4096'}}, "hidden must be a number above 0, got '4096'"),
    ],
)
def test_settings_that_are_refused(make, options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


def test_models_and_partners_that_are_refused(make_clip):
    with pytest.raises(InputError, match='give a model without a logit_bias'):
        SlipPretrainer(make_clip(logit_bias=True), {'type': SimClr})
    with pytest.raises(InputError, match='partner must be a self-supervised part such as dict'):
        SlipPretrainer(make_clip(), torch.nn.Linear(2, 2))


def test_the_last_batch_of_an_epoch(make):
    with pytest.raises(InputError, match='the last batch of each epoch has 1: set drop_last=True'):
        make().check_batch(1, last=True)
    make().check_batch(2)
