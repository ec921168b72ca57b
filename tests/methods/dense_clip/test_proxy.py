"""Backbones of timm as proxies; small ones, without weights."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.methods.dense_clip.proxy import TimmProxy
from clipdense.utils.errors import InputError


@pytest.mark.parametrize(
    ('name', 'patch', 'size', 'grid'),
    [
        ('vit_tiny_patch16_224', 16, (64, 96), (4, 6)),
        ('vit_tiny_patch16_224', 16, (60, 90), (4, 6)),  # stretched to whole patches
        ('resnet10t', 32, (64, 96), (2, 3)),
    ],
)
def test_features(name, patch, size, grid):
    proxy = TimmProxy(name, weights=False)
    assert proxy.patch_size == patch
    features = proxy(torch.randn(2, 3, *size))
    assert features.shape[-2:] == grid
    assert not features.requires_grad
    assert not proxy.train().backbone.training


def test_pictures_are_normalised_as_the_backbone_wants_them():
    proxy = TimmProxy('resnet10t', mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), weights=False)
    seen = []
    proxy.backbone.forward_intermediates = lambda images, **_: seen.append(images) or [images]
    picture = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    proxy((picture - mean) / std)
    own = proxy.backbone.pretrained_cfg
    mean, std = (torch.tensor(own[part]).view(3, 1, 1) for part in ('mean', 'std'))
    assert_close(seen[0], (picture - mean) / std)


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(1)
    first = TimmProxy('resnet10t', weights=False)
    path = tmp_path / 'backbone.pt'
    torch.save(first.backbone.state_dict(), path)
    second = TimmProxy('resnet10t', weights=path)
    images = torch.randn(1, 3, 64, 64)
    assert_close(first(images), second(images))


def test_unknown_backbone():
    with pytest.raises(InputError, match=r"timm has no backbone 'vit_tini_patch16_224'.*'vit_tiny_"):
        TimmProxy('vit_tini_patch16_224')
