"""Tiny models and batches with views."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.methods.slip.pretrainer import SlipPretrainer
from clipdense.methods.slip.simclr import SimClr

VIT = VitSize(image_size=16, patch_size=8, width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16)
RESNET = ResNetSize(image_size=32, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=16)
TEXT = TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16, vocab_size=50, context_length=8)
HEAD = {'hidden': 24, 'output': 8}


class KeepGradients(OptimWrapper):
    """An optimizer that steps, and leaves the gradients to be looked at."""

    def zero_grad(self, **_):
        pass


@pytest.fixture
def make_clip():
    """``make_clip(resnet=False)``: a tiny CLIP, always with the same weights."""

    def make(resnet: bool = False, **size):
        torch.manual_seed(0)
        return build_clip(ClipSize(RESNET if resnet else VIT, TEXT, **size))

    return make


@pytest.fixture
def make(make_clip):
    """``make(partner class, partner options, **options)``: a pre-trainer, always with the same weights."""

    def pretrainer(kind=SimClr, resnet=False, partner=None, **options):
        clip = make_clip(resnet)
        return SlipPretrainer(clip, {'type': kind, **HEAD, **(partner or {})}, **options).train()

    return pretrainer


@pytest.fixture
def batch():
    """``batch(images, views, side)``: uint8 images with views, and captions."""

    def draw(count=6, views=3, side=16, seed=1):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (count, views, 3, side, side), dtype=torch.uint8, generator=generator)
        ids = torch.randint(1, 49, (count, 8), generator=generator)
        ids[:, 5] = 49
        return {'images': images, 'token_ids': ids}

    return draw


@pytest.fixture
def step():
    """``step(model, data, lr)``: one training step; gradients are kept."""

    def train(model, data, lr=0.0):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
        return model.train_step(data, KeepGradients(optimizer))

    return train
