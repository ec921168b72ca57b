"""Weights of a tiny CLIP, and a folder and a cache of its own for each test of a command."""

from __future__ import annotations

import pytest
import torch

from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize

TINY = ClipSize(
    VitSize(image_size=32, patch_size=8, width=32, layers=2, num_heads=2, mlp_width=64, embed_dim=16),
    TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16),
)


@pytest.fixture(scope='session')
def weights(tmp_path_factory):
    """A tiny CLIP on disk."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'tiny.safetensors'
    save(build_clip(TINY), path)
    return str(path)


@pytest.fixture
def apart(tmp_path, monkeypatch):
    """Each test in a folder and a cache of its own, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('CLIPDENSE_OFFLINE', '1')


@pytest.fixture(scope='session')
def deep(tmp_path_factory):
    """A tiny CLIP of four blocks, which LSeg needs."""
    image = VitSize(image_size=32, patch_size=8, width=32, layers=4, num_heads=2, mlp_width=64, embed_dim=16)
    text = TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16)
    path = tmp_path_factory.mktemp('deep') / 'tiny.safetensors'
    save(build_clip(ClipSize(image, text)), path)
    return str(path)
