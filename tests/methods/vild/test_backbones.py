"""Backbones of other libraries, by name."""

from __future__ import annotations

import pytest
import torch

from clipdense.methods.vild.backbones import TorchvisionBackbone
from clipdense.methods.vild.parts import TimmMaps
from clipdense.utils.errors import InputError


@pytest.mark.parametrize(
    ('build', 'channels', 'strides'),
    [
        (lambda: TimmMaps('resnet18', (4, 8, 16, 32)), [64, 128, 256, 512], [4, 8, 16, 32]),
        (lambda: TimmMaps('resnet10t', (4, 8)), [64, 128], [4, 8]),
        (lambda: TorchvisionBackbone('resnet18', nodes=('layer1', 'layer3')), [64, 256], [4, 16]),
    ],
    ids=['timm', 'timm, two maps', 'torchvision'],
)
def test_feature_maps(build, channels, strides):
    with torch.no_grad():
        maps = build().eval()(torch.randn(1, 3, 64, 64))
    assert [one.shape[1] for one in maps] == channels
    assert [64 // one.shape[2] for one in maps] == strides


@pytest.mark.parametrize('kind', [TimmMaps, TorchvisionBackbone])
def test_unknown_names(kind):
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        kind('resnet-18')


def test_a_detector_takes_one(tiny):
    from clipdense.methods.vild.detector import ViLD

    config = tiny.config()
    config['backbone'] = dict(type=TimmMaps, name='resnet10t', strides=(4, 8, 16))
    config['neck'] |= dict(in_channels=[64, 128, 256])
    maps = ViLD(**config).extract_feat(torch.randn(1, 3, 64, 64))
    assert [one.shape[1] for one in maps] == [16, 16, 16]
