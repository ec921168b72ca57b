"""Tiny CLIPs of every kind with random weights, and what it means that two are the same."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from clipdense.clip.checkpoint.layouts import from_ours
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize

TEXT = TextSize(64, 2, 1, 96, 32, 50, 12, 'gelu')
VIT = ClipSize(VitSize(16, 4, 64, 2, 1, 96, 32, 'gelu'), TEXT)
RESNET = ClipSize(ResNetSize(64, 8, (1, 2, 1, 1), 4, 32), TEXT)
SLIP = ClipSize(
    VitSize(16, 4, 64, 2, 1, 96, 32, 'gelu', 'slip'), TextSize(64, 2, 1, 96, 32, 50, 12, 'quick_gelu')
)
SIGLIP = ClipSize(
    VitSize(16, 4, 64, 2, 1, 96, 64, 'gelu_tanh', 'siglip'),
    TextSize(64, 2, 1, 96, 64, 50, 12, 'gelu_tanh', 'siglip'),
    logit_bias=True,
)
SIZES = {'vit': VIT, 'resnet': RESNET, 'slip': SLIP, 'siglip': SIGLIP}


def make(size):
    """A model whose every tensor is random, batch statistics included."""
    clip = build_clip(size).eval()
    with torch.no_grad():
        for name, tensor in clip.state_dict().items():
            if tensor.is_floating_point():
                tensor.normal_().mul_(0.2)
            if name.endswith('running_var'):
                tensor.abs_().add_(0.5)
    return clip


def write(clip, layout, path):
    """An official file of the model, without anything beside it."""
    save_file({n: t.contiguous() for n, t in from_ours(clip.state_dict(), layout).items()}, path)
    return path


def inputs(size):
    torch.manual_seed(1)
    side = size.image.image_size
    token_ids = torch.randint(1, 40, (4, 12))
    token_ids[:, 8] = 49
    return torch.randn(3, 3, side, side), token_ids


@torch.no_grad()
def assert_same_outputs(clip, image_embeddings, text_embeddings, images, token_ids):
    torch.testing.assert_close(clip.encode_image(images), image_embeddings, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.encode_text(token_ids), text_embeddings, atol=1e-5, rtol=0)


def assert_same_model(found, expected):
    assert found.size == expected.size
    state = expected.state_dict()
    assert found.state_dict().keys() == state.keys()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    images, token_ids = inputs(expected.size)
    with torch.no_grad():
        expected_embeddings = expected.encode_image(images), expected.encode_text(token_ids)
    assert_same_outputs(found, *expected_embeddings, images, token_ids)
