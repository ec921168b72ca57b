"""Tiny models, and DenseCLIP under its official names with a forward pass of its own."""

from __future__ import annotations

import pytest
import torch

from clipdense.clip.class_embeddings import class_embedder
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.methods.denseclip.open_vocabulary import OpenContextAwareSegmenter
from clipdense.methods.denseclip.segmenter import ContextAwareSegmenter
from clipdense.vocab.vocabulary import Vocabulary

TEXT = TextSize(width=32, layers=1, num_heads=1, mlp_width=32, embed_dim=16)
VIT = VitSize(image_size=32, patch_size=8, width=32, layers=4, num_heads=2, mlp_width=32, embed_dim=16)
RESNET = ResNetSize(image_size=64, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=16)
NAMES = ('sky', 'car', 'tree')


@pytest.fixture
def make_clip():
    """``make_clip('vit')`` or ``make_clip('resnet')``: both towers tiny."""

    def make(image='resnet'):
        return build_clip(ClipSize(VIT if image == 'vit' else RESNET, TEXT)).eval()

    return make


@pytest.fixture
def make_model(make_clip):
    """A tiny segmenter with a vocabulary: 'fixed' (the classes of NAMES) or 'open'."""

    def make(kind='open', image='resnet', names=NAMES, **options):
        options = {'width': 8, 'decoder': {'width': 16, 'layers': 2}, **options}
        clip = options.pop('clip', None) or make_clip(image)
        if kind == 'fixed':
            model = ContextAwareSegmenter(NAMES, clip, **options)
        else:
            model = OpenContextAwareSegmenter(clip, **options)
        torch.nn.init.normal_(model.gamma)  # 1e-4 would hide the context decoder
        vocabulary = Vocabulary(tuple(names))
        model.set_vocabulary(vocabulary, class_embedder(model).embed(vocabulary))
        return model.eval()

    return make
