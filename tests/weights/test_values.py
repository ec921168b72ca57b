"""Weights are checked once, on loading, in every layout and by every command that reads them."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file

import clipdense
from clipdense.clip import checkpoint
from clipdense.clip.checkpoint.layouts import from_ours
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.inference.convert import convert
from clipdense.utils.errors import CheckpointError
from clipdense.weights.strict import load_strict
from clipdense.weights.values import check_values, not_finite

TEXT = TextSize(64, 2, 1, 96, 32, 50, 12, 'gelu')
SIZES = {
    'vit': (ClipSize(VitSize(16, 4, 64, 2, 1, 96, 32, 'gelu'), TEXT), 'openclip_vit'),
    'resnet': (ClipSize(ResNetSize(64, 8, (1, 1, 1, 1), 4, 32), TEXT), 'openclip_resnet'),
    'siglip': (
        ClipSize(
            VitSize(16, 4, 64, 2, 1, 96, 64, 'gelu_tanh', 'siglip'),
            TextSize(64, 2, 1, 96, 64, 50, 12, 'gelu_tanh', 'siglip'),
            logit_bias=True,
        ),
        'openclip_siglip',
    ),
}
HEADS = {'num_heads': 1, 'text_num_heads': 1}


def tensors(kind='vit'):
    return build_clip(SIZES[kind][0]).state_dict()


@pytest.mark.parametrize(
    ('values', 'finite'),
    [
        ([1.0, 2.0], True),
        ([3e38, 3e38, 3e38], True),  # their sum overflows
        ([1.0, math.nan], False),
        ([math.inf, 1.0], False),
        ([math.inf, -math.inf], False),
        ([], True),
    ],
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_not_finite(values, finite, dtype):
    found = {'a': torch.ones(2), 'b': torch.tensor(values, dtype=dtype), 'count': torch.tensor(3)}
    assert not_finite(found) == ([] if finite else ['b'])


def test_dtypes_of_few_bits():
    assert (
        not_finite({'half': torch.full((100,), 6e4).half(), 'eight': torch.ones(3).to(torch.float8_e5m2)})
        == []
    )
    assert not_finite({'eight': torch.tensor([math.nan]).to(torch.float8_e4m3fn)}) == ['eight']


SCALES = {  # stored value -> what is said, '' if it is accepted silently
    'initial value of CLIP': (2.6593, ''),
    'limit of OpenAI': (4.6052, ''),
    'SigLIP': (4.7656, ''),
    'scale of 1': (0.0, ''),
    'exponential of OpenAI': (100.0, r'replace it by its logarithm \(4.6052\)'),
    'exponential of the initial value': (14.285, r'its logarithm \(2.6592\)'),
    'exponential of SigLIP': (117.33, r'its logarithm \(4.7650\)'),
    'negative': (-50.0, 'the logarithm of the scale is expected'),
    'nan': (math.nan, r'1 of \d+ tensors \(.*logit_scale'),
    'infinite': (math.inf, r'1 of \d+ tensors \(.*logit_scale'),
}


@pytest.mark.parametrize('name', SCALES)
@pytest.mark.parametrize('kind', SIZES)
def test_logit_scale(tmp_path, recwarn, kind, name):
    value, said = SCALES[name]
    size, layout = SIZES[kind]
    clip = build_clip(size)
    clip.logit_scale.data.fill_(value)
    ours, theirs = tmp_path / 'ours.safetensors', tmp_path / 'theirs.safetensors'
    checkpoint.save(clip, ours)
    save_file({n: t.contiguous() for n, t in from_ours(clip.state_dict(), layout).items()}, theirs)
    activation = size.text.activation
    heads = {'text_num_heads': 1} if kind == 'resnet' else {**HEADS, 'activation': activation}
    for load in (
        lambda: clipdense.load(ours),
        lambda: clipdense.load(theirs, text_activation=activation, **heads),
        lambda: convert(ours, tmp_path / 'converted.safetensors', overwrite=True),
    ):
        if said:
            with pytest.raises(CheckpointError, match=said):
                load()
        else:
            load()
    assert not [warning for warning in recwarn if 'temperature' in str(warning.message)]
    assert (tmp_path / 'converted.safetensors').exists() != bool(said)


def test_a_temperature_is_warned_of():
    with pytest.warns(UserWarning, match=r'a scale of 1.07: .* log\(1 / temperature\)'):
        check_values({'logit_scale': torch.tensor(0.07)}, 'file')


def test_the_logarithm_of_a_temperature_is_warned_of():
    with pytest.warns(UserWarning, match=r'a scale of 0.07: .* change its sign'):
        check_values({'logit_scale': torch.tensor(math.log(0.07))}, 'file')


def test_logit_bias():
    check_values({'logit_bias': torch.tensor(-16.5)}, 'file')
    with pytest.raises(CheckpointError, match='logit_bias is -100000'):
        check_values({'logit_bias': torch.tensor(-1e5)}, 'file')


@pytest.mark.parametrize(
    'name', ['image.blocks.1.mlp.fc2.bias', 'text.token_embed.weight', 'image.pos_embed']
)
def test_one_value_is_enough(tmp_path, name):
    state = tensors()
    state[name].flatten()[-1] = math.nan
    save_file(
        state,
        tmp_path / 'clip.safetensors',
        checkpoint.describe(SIZES['vit'][0], build_clip(SIZES['vit'][0]).preprocess),
    )
    with pytest.raises(CheckpointError, match=rf'clip.safetensors has weights .* \({name}\)'):
        clipdense.load(tmp_path / 'clip.safetensors')


def test_an_unchanged_model_after_a_refusal():
    model = torch.nn.Linear(2, 2)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match='NaN or infinite'):
        load_strict(model, {'weight': torch.ones(2, 2), 'bias': torch.tensor([0, math.inf])}, 'file')
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize('dtype', [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_not_floating_point(dtype):
    with pytest.raises(CheckpointError, match=rf'1 not floating-point \(weight is {str(dtype)[6:]}\)'):
        load_strict(
            torch.nn.Linear(2, 2), {'weight': torch.ones(2, 2, dtype=dtype), 'bias': torch.ones(2)}, 'x'
        )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_counters_of_batch_norm_may_be_missing(tmp_path, dtype):
    clip = build_clip(SIZES['resnet'][0]).to(dtype)
    state = {n: t for n, t in clip.state_dict().items() if not n.endswith('num_batches_tracked')}
    save_file(state, tmp_path / 'clip.safetensors', checkpoint.describe(clip.size, clip.preprocess))
    loaded = clipdense.load(tmp_path / 'clip.safetensors')
    assert int(loaded.image.bn1.num_batches_tracked) == 0
    assert torch.equal(loaded.image.conv1.weight, clip.image.conv1.weight.float())
