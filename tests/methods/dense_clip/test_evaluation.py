"""Measuring a training-free segmenter on scenes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.data.scenes import SceneSegmentation
from clipdense.methods.dense_clip.evaluation import ZeroShotSegmentation

TINY = ClipSize(VitSize(32, 8, 32, 2, 2, 32, 16), TextSize(32, 1, 1, 32, 16))


@pytest.fixture(scope='module')
def clip():
    torch.manual_seed(0)
    return build_clip(TINY).eval()


@pytest.fixture(scope='module')
def dataset():
    return SceneSegmentation('base', 3)


def measure(clip, dataset, **settings):
    return ZeroShotSegmentation(dataset, slide={}, templates='name', **settings)(clip)


def test_names_and_range(clip, dataset):
    found = measure(clip, dataset, name='scenes')
    assert found.keys() >= {'scenes/miou', 'scenes/foreground', 'scenes/chance'}
    assert all(0 <= value <= 1 for value in found.values())


def test_settings_reach_the_segmenter(clip, dataset):
    assert measure(clip, dataset, method='naclip') != measure(
        clip, dataset, method='naclip', options={'std': 0.5}
    )


def test_a_proxy_reaches_the_segmenter(clip, dataset):
    looks = nn.AvgPool2d(8)  # patches are alike that have the colour in common
    looks.patch_size = 8
    found = measure(clip, dataset, method='proxyclip', proxy=looks)
    assert found != measure(clip, dataset, method='maskclip_no_residual')


def test_what_the_dataset_does_not_label_is_not_counted(clip):
    images = SceneSegmentation('base', 3)
    counted = measure(clip, images)['segmentation/chance']
    images.ignore_index = 0  # the background
    assert measure(clip, images)['segmentation/chance'] != counted


def test_the_background_is_asked_by_the_words_given(clip, dataset):
    evaluation = ZeroShotSegmentation(dataset, background_words=('sandy ground', 'rough ground'))
    words = [word for word, index in evaluation._vocabulary().queries if index == 0]
    assert words == ['sandy ground', 'rough ground']
    assert ZeroShotSegmentation(dataset)._vocabulary() is dataset.vocabulary
