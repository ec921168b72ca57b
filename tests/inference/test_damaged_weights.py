"""One damaged tensor, in official files of every method: an error that names the file, and no traceback."""

from __future__ import annotations

import random

import pytest
import torch

from clipdense.clip.checkpoint.loading import OpenedWeights
from clipdense.clip.checkpoint.loading import load as load_clip
from clipdense.methods import find_method
from clipdense.utils.errors import CheckpointError
from clipdense.weights.io import WeightsFile

QUICK = {'activation': 'quick_gelu', 'text_activation': 'quick_gelu', 'text_num_heads': 2}
FILES = {
    'openai_clip_vit_tiny': {**QUICK, 'num_heads': 2},
    'openai_clip_rn_tiny': QUICK,
    'groupvit_nv_tiny': {},
    'groupvit_hf_tiny': {},
}
DAMAGE = {
    'another rank': lambda x: x[None, None, None],
    'no elements': lambda x: x.reshape(-1)[:0],
    'a single number': lambda x: x.reshape(-1)[:1].sum(),
    'more rows': lambda x: torch.cat([x.reshape(1, -1)] * 3),
    'NaN': lambda x: x.float() * torch.nan,
    'int8': lambda x: x.to(torch.int8),
    'bool': lambda x: x.bool(),
    'complex': lambda x: x.to(torch.complex64),
}


@pytest.mark.parametrize('name', FILES)
def test_one_damaged_tensor(golden, tmp_path, name):
    state = {key.removeprefix('state.'): x for key, x in golden(name)[0].items() if key.startswith('state.')}
    draw = random.Random(name)
    names = [key for key, x in state.items() if x.is_floating_point() and 'logit_scale' not in key]
    for key, damage in [(draw.choice(names), damage) for damage in DAMAGE for _ in range(4)]:
        tensors = {**state, key: DAMAGE[damage](state[key])}
        file = WeightsFile(tmp_path / 'damaged.pt', 'torch', tensors)
        method = find_method(tensors)
        with pytest.raises(CheckpointError) as refusal:  # noqa: PT012, one call of two
            if method is None:
                load_clip(OpenedWeights(file), **FILES[name])
            else:
                method.load_file(file, FILES[name])
            pytest.fail(f'{key}: {damage} is accepted')
        assert 'damaged.pt' in str(refusal.value), (key, damage)
        assert '\n' not in str(refusal.value), (key, damage)
