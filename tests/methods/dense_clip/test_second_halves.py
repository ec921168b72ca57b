"""What methods do with the words, against the formulas of their papers written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.methods.dense_clip.functions import DENSE_METHODS, cosines

B, K, D, GRID = 2, 5, 8, (3, 4)


@pytest.fixture
def embeddings():
    return normalize(torch.randn(B, D, *GRID), dim=1)


@pytest.fixture
def text():
    return normalize(torch.randn(K, D), dim=-1)


def test_feature_surgery(embeddings, text):
    """CLIP Surgery's equations on the (patches, classes, channels) products that we never build."""
    pooled = torch.randn(B, D)
    got = DENSE_METHODS['clip_surgery'].read(None, (embeddings, pooled), text)
    weight = (normalize(pooled, dim=-1) @ text.T * 2).softmax(dim=-1)
    weight = weight / weight.mean(dim=-1, keepdim=True)
    products = embeddings.flatten(2).mT[:, :, None] * text * weight[:, None, :, None]  # (B, N, K, D)
    products = products - products.mean(dim=2, keepdim=True)
    assert_close(got.flatten(2).mT, products.sum(dim=-1), atol=1e-6, rtol=1e-5)


def test_key_smoothing_and_prompt_denoising(embeddings, text):
    keys = torch.randn(B, 12, 6)
    got = DENSE_METHODS['maskclip_denoised'].read(
        None, (embeddings, keys), text, ks_threshold=1.1, pd_threshold=0.85, temperature=6.0
    )
    logits = cosines(embeddings, text).flatten(2) * 6
    for index in range(B):
        kept = logits[index].softmax(dim=0).amax(dim=1) >= 0.85
        assert 0 < kept.sum() < K, 'the case must be one in which classes are dropped'
        shares = torch.where(kept[:, None], logits[index], -torch.inf).softmax(dim=0)  # (K, N)
        unit = normalize(keys[index], dim=-1)
        smooth = torch.stack([(shares * (unit @ unit[patch])).sum(dim=1) for patch in range(12)], dim=1)
        assert_close(got[index].flatten(1), smooth, atol=1e-6, rtol=1e-5)


def test_patches_that_are_sure_are_not_smoothed(embeddings, text):
    features = embeddings, torch.randn(B, 12, 6)
    settings = {'pd_threshold': 0.0, 'temperature': 6.0}
    got = DENSE_METHODS['maskclip_denoised'].read(None, features, text, ks_threshold=0.0, **settings)
    assert_close(got, (cosines(embeddings, text) * 6).softmax(dim=1))


def test_where_no_class_is_sure_none_is_dropped(embeddings, text):
    features = embeddings, torch.randn(B, 12, 6)
    got = DENSE_METHODS['maskclip_denoised'].read(None, features, text, pd_threshold=1.1)
    assert got.isfinite().all()
