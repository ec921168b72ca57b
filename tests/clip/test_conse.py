"""ConSE: class probabilities weight text embeddings; a mean embedding is removed."""

from __future__ import annotations

from math import log, sqrt

import pytest
import torch
from torch.testing import assert_close

from clipdense.clip.conse import Centered, ConvexCombination
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, HFTextSize, TimmSize

BERT = dict(
    vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=20,
)  # fmt: skip
SIZE = ClipSize(
    TimmSize('test_efficientnet', 64, 16, projection='conse', options={'num_classes': 5}),
    HFTextSize('bert', 16, 'mean_pooler', 'centered', 20, BERT),
)


@pytest.mark.parametrize(
    ('logits', 'embedding'),
    [
        ((0.0, 0.0), (0.5, 1.5)),
        ((log(3.0), 0.0), (0.75, 1.25)),  # probabilities 3/4 and 1/4
        ((1000.0, 0.0), (1.0, 1.0)),
    ],
)
def test_convex_combination(logits, embedding):
    head = ConvexCombination(2, 2)
    head.embeddings.copy_(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    assert_close(head(torch.tensor(logits)), torch.tensor(embedding))


def test_centered():
    layer = Centered(2)
    layer.mean.copy_(torch.tensor([0.5, 0.0]))
    expected = torch.tensor([[0.1, 0.8], [1 / sqrt(2) - 0.5, -1 / sqrt(2)]])
    assert_close(layer(torch.tensor([[3.0, 4.0], [2.0, -2.0]])), expected)


def test_neither_is_trained():
    clip = build_clip(SIZE)
    names = [name for name, _ in clip.named_parameters() if 'conse' in name or 'text.proj' in name]
    assert names == []
    assert {'image.head.conse.embeddings', 'text.proj.mean'} <= clip.state_dict().keys()


def test_locations_are_embedded_like_images():
    clip = build_clip(SIZE).eval()
    with torch.no_grad():
        dense = clip.encode_dense(torch.full((1, 3, 64, 64), 0.3))  # (1, 16, h, w)
        features = clip.image(torch.full((1, 3, 64, 64), 0.3)).patch_tokens  # (1, N, C)
        logits = clip.image.trunk.classifier(features)
    expected = logits.softmax(-1) @ clip.image.head.conse.embeddings
    assert_close(dense.flatten(2).mT, expected)
