"""Images for the tower, against the official transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from clipdense.clip.preprocess import Preprocess
from clipdense.utils.errors import InputError


@pytest.mark.parametrize('size', [32, 64])
def test_the_official_transform(golden, size):
    tensors, _ = golden('clip_aux')
    image = Image.fromarray(tensors['input.image_uint8_hwc'].numpy())
    got = Preprocess.named('openai', size)(image)
    assert_close(got, tensors[f'output.preprocess_{size}'], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ('resize', 'expected'), [('shortest', 255), ('squash', 127)], ids=['centre of the image', 'all of it']
)
def test_resize_rules(resize, expected):
    """A white centre between black sides: a crop sees white, a squashed image its average."""
    image = Image.new('RGB', (300, 100), 'black')
    image.paste('white', (75, 0, 225, 100))
    pixels = Preprocess(100, resize=resize).crop(image)
    assert pixels.shape == (3, 100, 100)
    assert pixels.float().mean().item() == pytest.approx(expected, abs=3)


def test_a_line_of_pixels_is_not_scaled_whole():
    pixels = Preprocess(32).crop(Image.new('RGB', (100_000, 2), 'white'))
    assert pixels.shape == (3, 32, 32)
    assert pixels.min() == 255


@pytest.mark.parametrize('resize', ['shortest', 'squash'])
@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
@pytest.mark.parametrize(
    'size',
    [(32, 32), (50, 33), (33, 50), (64, 32), (7, 9), (1, 5)],
    ids=lambda size: 'x'.join(map(str, size)),
)
def test_pixels_are_those_of_torchvision(size, interpolation, resize):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    image, mode = Image.fromarray(pixels), InterpolationMode(interpolation)
    expected = F.resize(image, [32, 32] if resize == 'squash' else [32], mode)
    found = Preprocess(32, interpolation=interpolation, resize=resize).crop(image)
    assert torch.equal(found, F.pil_to_tensor(F.center_crop(expected, [32, 32])))


def test_statistics():
    half = Preprocess.named('siglip', 8).normalize(
        torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    )
    assert half.amin().item() == -1
    assert half.amax().item() == 1
    assert Preprocess.named('siglip', 8).resize == 'squash'


def test_dict_round_trip():
    import json

    preprocess = Preprocess.named('imagenet', 224)
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess


def test_unknown_name():
    with pytest.raises(InputError, match="Did you mean 'imagenet'"):
        Preprocess.named('imagnet', 224)
