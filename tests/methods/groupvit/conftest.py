"""Official GroupViTs, and a tiny one of our own."""

from __future__ import annotations

import pytest
import torch

from clipdense.clip.sizes import TextSize
from clipdense.methods.groupvit.checkpoint import from_official
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.sizes import GroupVitImageSize, GroupVitSize, StageSize


@pytest.fixture
def official(golden):
    """``official('groupvit_nv_tiny', num_heads=2) -> (model, tensors, meta)``, without 'output.'."""

    def read(name, **overrides):
        tensors, meta = golden(name)
        state = {
            key.removeprefix('state.'): value for key, value in tensors.items() if key.startswith('state.')
        }
        found = {key.removeprefix('output.'): value for key, value in tensors.items()}
        return from_official(state, **overrides), found, meta

    return read


@pytest.fixture
def tiny():
    """``tiny(stages=...)``: 16 pixels, patch 4, D = 8, a vocabulary of 50 ids of which 49 ends a text."""

    def build(stages=((1, 6, 6), (1, 3, 3), (1, 0, 0)), width=16, multi_label=True, mlp_ratio=2, **options):
        torch.manual_seed(0)
        sizes = tuple(StageSize(depth, width, 2, tokens, groups) for depth, tokens, groups in stages)
        image = GroupVitImageSize(16, 4, sizes, embed_dim=8, projector_width=12, mlp_ratio=mlp_ratio)
        text = TextSize(16, 1, 2, 32, 8, vocab_size=50, context_length=8)
        return build_group_vit(GroupVitSize(image, text, multi_label), **options)

    return build
