"""JPEGs by simplejpeg: Pillow's pixels, and Pillow's errors."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image, read_pixels
from clipdense.utils.jpeg import decode_jpeg

pytest.importorskip('simplejpeg')


def encoded(width, height, mode='RGB', **settings):
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, 'JPEG', **settings)
    return file.getvalue()


@pytest.mark.parametrize('factor', [1, 2, 4, 8])
@pytest.mark.parametrize('size', [(64, 48), (61, 47), (8, 8), (1, 1), (200, 3)])
@pytest.mark.parametrize(
    'settings', [{}, {'subsampling': 0}, {'quality': 40, 'progressive': True}, {'keep_rgb': True}], ids=str
)
def test_pixels_are_those_of_pillow(size, factor, settings):
    data = encoded(*size, **settings)
    expected = np.asarray(read_image(data, shrink=lambda width, height: factor))
    if min(size) >= factor:
        assert np.array_equal(decode_jpeg(data, *size, factor), expected)
    assert np.array_equal(read_pixels(data, shrink=lambda width, height: factor), expected)


@pytest.mark.parametrize('mode', ['L', 'CMYK'])
@pytest.mark.parametrize('orientation', [1, 3, 6, 99])
def test_what_only_pillow_reads(mode, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in (mode, 'RGB'):
        (tmp_path / 'a.jpg').write_bytes(encoded(40, 30, kind, exif=exif))
        assert np.array_equal(read_pixels(tmp_path / 'a.jpg'), np.asarray(read_image(tmp_path / 'a.jpg')))


@pytest.mark.parametrize('length', [0, 1, 100, -300, -20])
def test_damage_is_told_as_ever(length):
    data = encoded(200, 150)[:length]
    with pytest.raises(InputError) as expected:
        read_image(data)
    with pytest.raises(InputError) as found:
        read_pixels(data)
    assert str(found.value) == str(expected.value)


def test_the_limit_of_pixels():
    with pytest.raises(InputError, match='pixels'):
        read_pixels(encoded(40, 30), max_pixels=1000)


def test_the_size_is_asked_once_also_where_simplejpeg_refuses():
    asked = []
    data = encoded(64, 48, 'L')
    read_pixels(data, shrink=lambda *size: asked.append(size) or 2)
    damaged = bytearray(encoded(64, 48))
    damaged[-40:-20] = b'\xff\xd0' * 10  # markers that do not belong there
    read_pixels(bytes(damaged), shrink=lambda *size: asked.append(size) or 2)
    assert asked == [(64, 48), (64, 48)]
