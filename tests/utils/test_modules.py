"""Modules without memory."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from clipdense.utils.modules import meta_device

BUILD = """
import sys
from torch import nn
from clipdense.utils.modules import meta_device
with meta_device():
    layers = nn.Linear(3, 2), nn.Embedding(5, 4), nn.MultiheadAttention(8, 2), nn.Conv2d(3, 4, 2)
    nn.init.trunc_normal_(nn.Parameter(layers[0].weight), std=0.1)
sys.exit('torch._dynamo' in sys.modules)
"""


def test_modules_have_shapes_and_no_memory():
    before = torch.get_rng_state()
    with meta_device():
        built = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2), nn.LayerNorm(2))
    assert all(parameter.is_meta for parameter in built.parameters())
    assert [tuple(parameter.shape) for parameter in built.parameters()] == [(5, 4), (2, 4), (2,), (2,), (2,)]
    assert torch.equal(torch.get_rng_state(), before)


def test_tensors_with_memory_are_initialized_as_ever():
    layer = nn.Linear(3, 3, device='cpu')
    expected = layer.weight.detach().clone()
    with meta_device():
        torch.manual_seed(1)
        nn.init.normal_(layer.weight)
    torch.manual_seed(1)
    assert torch.equal(layer.weight, torch.empty(3, 3).normal_())
    assert not torch.equal(layer.weight, expected)


def test_building_does_not_import_the_compiler():
    done = subprocess.run([sys.executable, '-c', BUILD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
