"""A tiny CLIP, and its segmenter as an ONNX file, exported once."""

from __future__ import annotations

import pytest
import torch

import clipdense
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize


@pytest.fixture(scope='session')
def clip():
    torch.manual_seed(0)
    text = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=16)
    vit = VitSize(image_size=32, patch_size=8, width=32, layers=1, num_heads=2, mlp_width=32, embed_dim=16)
    return build_clip(ClipSize(vit, text)).eval()


@pytest.fixture(scope='session')
def exported(clip, tmp_path_factory):
    """The segmenter of the CLIP with maskclip."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    path = tmp_path_factory.mktemp('graphs') / 'segmenter.onnx'
    return clipdense.export(clip, path, method='maskclip')
