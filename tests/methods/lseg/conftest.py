"""Tiny parts that every LSeg test builds on."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from clipdense.clip.model import build_clip
from clipdense.clip.resnet import ModifiedResNet
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, TimmSize, VitSize
from clipdense.clip.timm_tower import TimmImageTower
from clipdense.methods.lseg.backbones import ResNetPyramid, StagePyramid, TransformerPyramid, timm_network
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.structures import ClassEmbeddings
from clipdense.vocab.vocabulary import Vocabulary

TEXT = TextSize(width=32, layers=1, num_heads=1, mlp_width=32, embed_dim=16)
VIT = VitSize(image_size=32, patch_size=8, width=32, layers=4, num_heads=2, mlp_width=32, embed_dim=16)
RESNET = ResNetSize(image_size=64, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=16)
STAGES = {  # image towers of timm with stages
    'efficientnet': TimmSize('test_efficientnet', 32, 16),
    'convnext': TimmSize('test_convnext', 32, 16, projection='linear'),
}
IMAGES = {'vit': VIT, 'resnet': RESNET, **STAGES}
TIMM = {'img_size': 32, 'patch_size': 16, 'embed_dim': 32, 'depth': 4, 'num_heads': 2}


@pytest.fixture
def make_clip():
    """``make_clip('vit')``, 'resnet', 'efficientnet' or 'convnext': both towers tiny."""

    def make(image='vit'):
        return build_clip(ClipSize(IMAGES[image], TEXT)).eval()

    return make


@pytest.fixture
def make_backbone(make_clip):
    """A tiny pyramid: 'timm vit', 'clip vit', 'timm resnet', 'clip resnet', 'efficientnet' or 'convnext'."""

    def make(kind='timm vit'):
        channels = (8, 8, 8, 8)
        if kind == 'timm vit':
            return TransformerPyramid(timm_network('vit_tiny_patch16_224', **TIMM), channels=channels)
        if kind == 'clip vit':
            return TransformerPyramid(make_clip().image, channels=channels, scales=(4, 2, 1, 0.5))
        if kind == 'timm resnet':
            return ResNetPyramid(timm_network('resnet10t'))
        if kind in STAGES:
            return StagePyramid(TimmImageTower(STAGES[kind]))
        return ResNetPyramid(ModifiedResNet(RESNET))

    return make


@pytest.fixture
def make_lseg(make_backbone):
    """A tiny LSeg without a text tower, with words that point anywhere."""

    def make(kind='timm vit', words=('sky', 'car', 'tree'), background=None, cls=LSeg, **options):
        model = cls(make_backbone(kind), embed_dim=16, width=16, **options)
        if words:
            vocabulary = Vocabulary(tuple(words), background=background)
            queries = normalize(torch.randn(len(words), 16), dim=-1)
            model.set_vocabulary(vocabulary, ClassEmbeddings(queries, torch.arange(len(words)), len(words)))
        return model.eval()

    return make
