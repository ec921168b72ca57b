"""Backbones of timm: maps of the strides, whole detectors, and files that describe themselves."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

import clipdense
from clipdense.clip import self_describing
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.parts import SimplePyramid, TimmMaps
from clipdense.registry import build_module

from .conftest import WIDTH, config
from .test_detector import BOX, losses_of

timm = pytest.importorskip('timm')
CONVNEXT = dict(type=TimmMaps, name='convnext_atto')
RESNET = dict(type=TimmMaps, name='resnet10t')
VIT = dict(type=TimmMaps, name='vit_tiny_patch16_224', strides=(16,), depth=3, dynamic_img_size=True)


def made(backbone):
    """A config with this backbone and the neck that it needs."""
    found = config()
    channels = build_module(backbone).channels
    found['neck']['in_channels'] = channels
    if len(channels) == 1:
        found['neck'] = dict(type=SimplePyramid, in_channels=channels[0], out_channels=WIDTH)
    found['head']['size']['strides'] = (8, 16, 32, 64, 128)
    return {**found, 'backbone': backbone}


@pytest.mark.parametrize('backbone', [CONVNEXT, RESNET, VIT], ids=['convnext', 'resnet', 'vit'])
def test_a_detector_trains_and_describes_itself(tmp_path, vocabulary, batch, backbone):
    torch.manual_seed(0)
    cfg = Config({'model': {'type': GLIP, **made(backbone)}})
    model = build_module(cfg.model)
    model.set_vocabulary(vocabulary)
    levels = model.extract_feat(torch.zeros(1, 3, 64, 96))
    assert [tuple(one.shape[1:]) for one in levels] == [
        (WIDTH, max(1, -(-64 // stride)), max(1, -(-96 // stride))) for stride in (8, 16, 32, 64, 128)
    ]
    sum(losses_of(model.train(), batch(BOX, BOX)).values()).backward()
    assert all(one.grad is not None for one in model.backbone.parameters() if one.requires_grad)
    self_describing.save(model.eval(), tmp_path / 'glip.safetensors', cfg)
    found = clipdense.load(tmp_path / 'glip.safetensors')
    assert all(torch.equal(one, found.state_dict()[name]) for name, one in model.state_dict().items())
