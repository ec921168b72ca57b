"""Views: their number, size and order; each part of the augmentation; what is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch.testing import assert_close
from torchvision.transforms.functional import adjust_hue
from torchvision.transforms.v2 import functional as F

from clipdense.data.transforms import TrainCrop
from clipdense.methods.slip.views import ImageViews, SimClrView, blurred, with_hue
from clipdense.utils.errors import InputError

OFF = {'jitter_probability': 0.0, 'gray': 0.0, 'blur': 0.0, 'flip': 0.0}
CROP = {'type': TrainCrop, 'size': 16}


def image(side=24):
    return torch.randint(
        0, 256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def view(**options):
    return SimClrView(16, **{**OFF, **options})(image(), random.Random(3))


@pytest.mark.parametrize(('caption', 'count'), [(None, 2), (CROP, 3)])
def test_the_caption_comes_first(caption, count):
    pixels = ImageViews({'first': SimClrView(16), 'second': SimClrView(16)}, caption)(
        image(), random.Random(0)
    )
    assert (pixels.shape, pixels.dtype) == ((count, 3, 16, 16), torch.uint8)
    assert not torch.equal(pixels[-1], pixels[-2])
    if caption:
        assert_close(pixels[0], TrainCrop(16)(image(), random.Random(0)))


def test_an_unchanged_image_and_a_pillow_image():
    transform = ImageViews([{'type': SimClrView, 'size': 24}], 'unchanged')
    pillow = Image.fromarray(image().permute(1, 2, 0).numpy())
    for source in (image(), pillow):
        assert_close(transform(source, random.Random(0))[0], image())


def test_views_depend_on_the_generator_only():
    made = [SimClrView(16)(image(), random.Random(seed)) for seed in (1, 1, 2)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_each_part():
    plain = view()
    assert_close(plain, TrainCrop(16, (0.08, 1.0), interpolation='bilinear')(image(), random.Random(3)))
    assert_close(view(flip=1.0), plain.flip(-1))
    gray = view(gray=1.0)
    assert torch.equal(gray[0], gray[1])
    assert_close(gray, F.rgb_to_grayscale(plain, 3))
    assert_close(view(solarize=1.0), torch.where(plain >= 128, 255 - plain, plain))
    assert torch.equal(view(jitter_probability=1.0, jitter=(0, 0, 0, 0)), plain)
    bright = view(jitter_probability=1.0, jitter=(0.4, 0, 0, 0)).double().mean() / plain.double().mean()
    assert 0.59 < bright < 1.41
    assert not torch.equal(view(jitter_probability=1.0), plain)


def smooth(side=64):
    """A colorful image without noise."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij')
    waves = [127 + 120 * (rows / 9 + turn).sin() * (columns / 7 - turn).cos() for turn in (0.0, 1.0, 2.0)]
    return torch.stack(waves).to(torch.uint8)


def pillow(pixels):
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def near(found, expected, mean=1.0, most=8):
    difference = np.abs(found.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected).astype(int))
    assert difference.mean() < mean
    assert difference.max() <= most


@pytest.mark.parametrize('radius', [0.1, 0.5, 1.5, 2.0])
def test_the_blur_is_that_of_pillow(radius):
    near(blurred(smooth(), radius), pillow(smooth()).filter(ImageFilter.GaussianBlur(radius)))


@pytest.mark.parametrize('turn', [-0.5, -0.1, 0.0, 0.05, 0.3])
def test_the_hue_is_that_of_pillow(turn):
    near(with_hue(smooth(), turn), adjust_hue(pillow(smooth()), turn))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'gray': 1.5}, 'gray must be a probability of 0 to 1, got 1.5'),
        ({'blur': float('nan')}, 'blur must be a probability of 0 to 1, got nan'),
        ({'flip': -0.1}, 'flip must be a probability'),
        ({'jitter': (0.4, 0.4)}, 'jitter must be four numbers'),
        ({'jitter': (0.4, 0.4, 0.4, 0.6)}, 'hue up to 0.5'),
        ({'scale': (0.0, 1.0)}, 'scale must be two numbers above 0, the smaller first'),
        ({'blur_radius': (2.0, 0.1)}, 'blur_radius must be two numbers above 0, the smaller first'),
    ],
)
def test_settings_that_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SimClrView(16, **options)


def test_collections_that_are_refused():
    with pytest.raises(InputError, match='ImageViews needs at least one view'):
        ImageViews({}, CROP)
    with pytest.raises(InputError, match='give it a name: views=dict'):
        ImageViews({'type': SimClrView, 'size': 16})
    with pytest.raises(InputError, match="caption must be a transform, 'unchanged' or None, got 'same'"):
        ImageViews([SimClrView(16)], 'same')
    sizes = ImageViews([SimClrView(16), SimClrView(8)], 'unchanged')
    with pytest.raises(InputError, match='must have one size, got 24 x 24, 16 x 16, 8 x 8'):
        sizes(image(), random.Random(0))
