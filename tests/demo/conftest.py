"""A tiny CLIP and images for the page; nothing is downloaded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

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
    return path


@pytest.fixture(scope='session')
def image():
    """Two halves, with noise: 64 x 48."""
    values = np.random.default_rng(0).integers(0, 60, (48, 64, 3))
    values[:, 32:] += 150
    return Image.fromarray(values.astype(np.uint8))


@pytest.fixture(scope='session')
def page_url(weights):
    """The address of a running page with a tiny CLIP; skips without gradio."""
    pytest.importorskip('gradio', reason='pip install "clipdense[demo]"')
    from clipdense.demo.predictions import Engine, Source
    from clipdense.demo.server import Address, running
    from clipdense.demo.uploads import Limits

    engine = Engine([Source(weights)])
    with running(engine, Address(port=0), Limits(megabytes=2)) as url:
        yield url
