"""Weight-decay groups, schedules against official values, precision, and the guarded step."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.engine import (
    DecayGroupsConstructor,
    EpochCosine,
    PrecisionOptimWrapper,
    WarmupCosine,
)
from clipdense.utils.errors import CheckpointError, InputError

TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=32, embed_dim=8, vocab_size=50, context_length=7)
VIT = VitSize(image_size=16, patch_size=8, width=16, layers=1, num_heads=2, mlp_width=32, embed_dim=8)
RESNET = ResNetSize(image_size=64, width=8, layers=(1, 1, 1, 1), num_heads=2, embed_dim=8)


def test_schedules_keep_the_ratio_of_the_layers():
    model = build_clip(ClipSize(VIT, TEXT))
    build = DecayGroupsConstructor(
        {'type': PrecisionOptimWrapper, 'optimizer': {'type': 'AdamW', 'lr': 1e-3, 'weight_decay': 0.2}},
        {'layer_decay': {'image': 0.5, 'text': 0.1}},
    )
    optimizer = build(model).optimizer
    WarmupCosine(optimizer, warmup=2, steps=10)
    first = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    assert first[id(model.image.class_token)] == pytest.approx(1e-3 / 2 / 4)
    assert first[id(model.text.pos_embed)] == pytest.approx(1e-3 / 2 / 100)
    assert first[id(model.logit_scale)] == pytest.approx(1e-3 / 2)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'layer_decay': {'imag': 0.5}}, "names 'imag', but the towers of the model are: image, text"),
        ({'layer_decay': {'image': 0}}, r"layer_decay of 'image' must be a factor in \(0, 1\]"),
        ({'layer_decay': {'image': 1.5}}, 'must be a factor'),
        ('dict(layer_decay=0.5)', 'must be a dict such as'),
        ({'layer_decay': 0.5}, 'layer_decay must name towers'),
        ({'layerdecay': {'image': 0.5}}, "takes rule, layer_decay and lr_factors, not 'layerdecay'"),
    ],
)
def test_wrong_settings_of_groups_are_refused(options, message):
    wrapper = {'type': PrecisionOptimWrapper, 'optimizer': {'type': 'AdamW', 'lr': 1e-3}}
    with pytest.raises(InputError, match=message):
        DecayGroupsConstructor(wrapper, options)(build_clip(ClipSize(VIT, TEXT)))


@pytest.mark.parametrize(
    ('kind', 'fused'), [(torch.optim.AdamW, True), ('AdamW', True), (torch.optim.SGD, None)], ids=str
)
def test_constructor(kind, fused):
    config = {'optimizer': {'type': kind, 'lr': 0.1, 'weight_decay': 0.3}, 'precision': 'fp32'}
    wrapper = DecayGroupsConstructor(config)(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    assert type(wrapper) is PrecisionOptimWrapper
    assert [group['weight_decay'] for group in wrapper.optimizer.param_groups] == [0.3, 0.0]
    assert wrapper.optimizer.defaults.get('fused') == fused


def test_fused_step_equals_plain():
    updates = []
    for fused in (False, True):
        torch.manual_seed(1)
        layer = nn.Linear(5, 5)
        config = {'optimizer': {'type': torch.optim.AdamW, 'lr': 0.1, 'fused': fused}, 'precision': 'fp32'}
        wrapper = DecayGroupsConstructor(config)(layer)
        for _ in range(3):
            wrapper.update_params(layer(torch.ones(2, 5)).square().sum())
        updates.append(layer.weight.detach().clone())
    assert torch.allclose(*updates, atol=1e-6)


def schedule(count, peak, **options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = WarmupCosine(optimizer, **options)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return rates


def test_epoch_cosine_is_that_of_dassl():
    """A constant first epoch, then the cosine of the epoch (CoOp, CoCoOp, MaPLe)."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2e-3)
    scheduler = EpochCosine(optimizer, warmup=1, start=1e-5, end=4)
    rates = []
    for epoch in range(4):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
        if epoch == 1:
            state = scheduler.state_dict()
    assert rates == pytest.approx([1e-5, 2e-3 * (2 + 2**0.5) / 4, 1e-3, 2e-3 * (2 - 2**0.5) / 4])
    scheduler.load_state_dict(state)
    assert optimizer.param_groups[0]['lr'] == pytest.approx(1e-3)
    with pytest.raises(InputError, match='warmup and start must be at least 0'):
        EpochCosine(optimizer, warmup=-1)


GOLDEN = {
    'output.openclip_cosine_lr5e-4_warm5_steps20': (5e-4, {'warmup': 5, 'steps': 20}),
    'output.slip_cosine_lr3e-3_end1e-5_ep4_it5_warm1_start1e-6': (
        3e-3,
        {'warmup': 5, 'steps': 20, 'start': 1e-6, 'final': 1e-5},
    ),
}


@pytest.mark.parametrize('name', GOLDEN)
def test_schedule_equals_official(golden, name):
    peak, options = GOLDEN[name]
    expected = golden('clip_aux')[0][name]
    ours = torch.tensor(schedule(20, peak, **options), dtype=torch.float64)
    assert torch.allclose(ours, expected, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'warmup': 0, 'steps': 4}, [1, 0.853553, 0.5, 0.146447, 0, 0]),
        ({'warmup': 2, 'steps': 4}, [0.5, 1, 1, 0.5, 0, 0]),
        ({'warmup': 1, 'steps': 2, 'start': 0.2}, [0.2, 1, 0]),
        ({'warmup': 8, 'steps': 4}, [0.125, 0.25, 0.375, 0.5]),
        ({'warmup': 1, 'steps': 3, 'final': 0.4}, [1, 1, 0.7, 0.4]),
    ],
    ids=['no warm-up', 'warm-up', 'start', 'shorter than its warm-up', 'final'],
)
def test_schedule(options, expected):
    assert schedule(len(expected), 1.0, **options) == pytest.approx(expected, abs=1e-6)


def test_schedule_refuses_negative_warmup():
    with pytest.raises(InputError, match='warmup'):
        schedule(1, 1.0, warmup=-1, steps=3)


def test_schedule_moves_every_group_of_the_wrapper():
    optimizer = torch.optim.SGD(
        [{'params': [nn.Parameter(torch.zeros(1))]}, {'params': [nn.Parameter(torch.zeros(1))], 'lr': 2.0}],
        lr=1.0,
    )
    wrapper = PrecisionOptimWrapper(optimizer, 'fp32')
    scheduler = WarmupCosine(wrapper, warmup=2, steps=4)
    assert wrapper.get_lr() == {'base_lr': [0.5], 'lr': [0.5, 1.0]}
    scheduler.load_state_dict({'last_step': 1})
    assert wrapper.get_lr()['lr'] == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize(
    ('precision', 'message'),
    [
        ('fp16', 'fp16 training needs a GPU'),
        ('fp61', "one of 'auto', 'fp32', 'bf16', 'fp16', got 'fp61'. Did you mean"),
    ],
)
def test_precision_refusals(precision, message):
    with pytest.raises(InputError, match=message):
        PrecisionOptimWrapper(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), precision)


@pytest.mark.parametrize(('precision', 'dtype'), [('fp32', torch.float32), ('bf16', torch.bfloat16)])
def test_autocast_inside_the_context_only(precision, dtype):
    layer = nn.Linear(2, 2)
    wrapper = PrecisionOptimWrapper(torch.optim.SGD(layer.parameters(), lr=0.1), precision)
    with wrapper.optim_context(layer):
        assert layer(torch.ones(1, 2)).dtype == dtype
    assert layer(torch.ones(1, 2)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


def step(parameter, gradient, **options):
    wrapper = PrecisionOptimWrapper(torch.optim.SGD([parameter], lr=1.0), 'fp32', **options)
    parameter.grad = torch.tensor(gradient)
    wrapper.step()
    return wrapper


@pytest.mark.parametrize(
    ('options', 'expected'),
    [({}, [-3.0, -4.0]), ({'clip_grad': {'max_norm': 1.0}}, [-0.6, -0.8]), ({'max_skips': 1}, [-3.0, -4.0])],
    ids=['plain', 'clipped', 'guarded'],
)
def test_step(options, expected):
    parameter = nn.Parameter(torch.zeros(2))
    step(parameter, [3.0, 4.0], **options)
    assert parameter.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('options', [{}, {'clip_grad': {'max_norm': 1.0}}, {'max_skips': 1}], ids=str)
def test_gradient_norm_is_computed_where_it_is_asked_for(options):
    parameter = nn.Parameter(torch.zeros(2))
    wrapper = step(parameter, [3.0, 4.0], **options)
    assert wrapper.gradient_norm is None
    wrapper.watched, parameter.grad = True, torch.tensor([6.0, 8.0])
    wrapper.step()
    assert wrapper.gradient_norm == pytest.approx(10.0)


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_step_is_left_out(bad):
    parameter = nn.Parameter(torch.zeros(2))
    wrapper = step(parameter, [1.0, bad], max_skips=2)
    assert parameter.tolist() == [0.0, 0.0]
    assert wrapper.skipped == 1
    parameter.grad = torch.ones(2)
    wrapper.step()
    assert wrapper.skipped == 0


def test_plain_accumulation_is_the_mean():
    """Two equal halves, each a mean: the same step as the whole."""
    inputs, weights = torch.randn(4, 3), []
    for parts in (1, 2):
        torch.manual_seed(0)
        layer = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        wrapper = PrecisionOptimWrapper(optimizer, 'fp32', accumulative_counts=parts)
        for part in inputs.chunk(parts):
            with wrapper.optim_context(layer):
                loss = layer(part).square().mean()
            wrapper.update_params(loss)
        weights.append(layer.weight.detach())
    assert torch.allclose(*weights)


def test_state_of_other_groups_is_refused():
    one, two = (torch.optim.SGD([nn.Parameter(torch.zeros(1)) for _ in range(n)], lr=1.0) for n in (1, 2))
    with pytest.raises(CheckpointError, match=r'groups of \[1\] parameters, this run of \[2\]'):
        PrecisionOptimWrapper(two, 'fp32').load_state_dict(OptimWrapper(one).state_dict())
