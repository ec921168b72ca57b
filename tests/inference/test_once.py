"""`clipdense.segment`, `classify` and `detect`: results of the predictors, which are made once."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

import clipdense
from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.utils.errors import InputError

TINY = ClipSize(
    VitSize(image_size=32, patch_size=8, width=32, layers=2, num_heads=2, mlp_width=64, embed_dim=16),
    TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16),
)
NAMES = ['cat', 'dog', 'sky']


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('CLIPDENSE_OFFLINE', '1')
    save(build_clip(TINY), 'tiny.safetensors')
    return 'tiny.safetensors'


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.fixture
def loaded(monkeypatch):
    """The weights that were loaded, in order."""
    found = []
    for kind in (clipdense.Segmenter, clipdense.Classifier):
        made = kind.from_pretrained

        def counted(weights, *given, made=made, **settings):
            found.append(str(weights))
            return made(weights, *given, **settings)

        monkeypatch.setattr(kind, 'from_pretrained', counted)
    return found


def test_results_are_those_of_the_predictors(weights, image):
    expected = clipdense.Segmenter.from_pretrained(weights, 'naclip')(image, NAMES)
    found = clipdense.segment(image, NAMES, weights, method='naclip')
    assert np.array_equal(found.mask, expected.mask)
    assert np.array_equal(found.scores, expected.scores)
    expected = clipdense.Classifier.from_pretrained(weights)(image, NAMES)
    assert clipdense.classify(image, NAMES, weights).top(3) == expected.top(3)


def test_a_list_and_options_of_the_call(weights, image):
    results = clipdense.segment([image, image], NAMES, weights, keep_probabilities=True)
    assert [result.probabilities.shape for result in results] == [(3, 40, 50)] * 2


def test_the_model_is_loaded_once_and_again_when_its_file_changes(weights, image, loaded):
    for names in (NAMES, ['car', 'road']):
        clipdense.segment(image, names, weights)
    assert loaded == [weights]
    torch.manual_seed(1)
    save(build_clip(TINY), 'other.safetensors')
    before = clipdense.segment(image, NAMES, weights).scores
    os.replace('other.safetensors', weights)
    assert not np.array_equal(clipdense.segment(image, NAMES, weights).scores, before)
    assert len(loaded) == 2


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda image: clipdense.segment(image, NAMES, 'absent.safetensors'), 'absent.safetensors'),
        (
            lambda image: clipdense.segment(image, NAMES, build_clip(TINY)),
            'use clipdense.Segmenter',
        ),
        (lambda image: clipdense.segment(image, [], 'tiny.safetensors'), 'vocabulary is empty'),
        (lambda image: clipdense.segment('absent.jpg', NAMES, 'tiny.safetensors'), 'absent.jpg'),
        (lambda image: clipdense.segment(image, NAMES, 'tiny.safetensors', method='nacl'), 'naclip'),
        (lambda image: clipdense.segment(image, NAMES, 'tiny.safetensors', keep=True), 'keep'),
        (lambda image: clipdense.detect(image, NAMES, 'tiny.safetensors'), 'detector|detection'),
    ],
)
def test_refused(weights, image, call, message):
    with pytest.raises(InputError, match=message):
        call(image)
