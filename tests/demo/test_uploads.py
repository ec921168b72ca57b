"""What visitors may upload, and what they are told."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipdense.demo.uploads import Limits, file_stem, read_upload
from clipdense.utils.errors import InputError

LIMITS = Limits(pixels=10_000, megabytes=1)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'


def large(path):
    Image.new('L', (200, 100)).save(path)


BAD = {
    'too many pixels': (
        'a.png',
        large,
        'a.png: the image has 200 x 100 pixels, more than the limit of 10000',
    ),
    'too many bytes': (
        'a.png',
        lambda path: path.write_bytes(bytes(1_500_000)),
        'more than the limit of 1 MB',
    ),
    'SVG': ('a.svg', lambda path: path.write_text(SVG), 'a.svg: the image is a web page or XML'),
    'SVG named JPEG': ('a.jpg', lambda path: path.write_text(SVG), 'a.jpg: the image is a web page or XML'),
    'text named JPEG': ('a.jpg', lambda path: path.write_text('hello'), 'is not an image'),
    'empty': ('a.jpg', lambda path: path.touch(), 'empty'),
    'truncated': (
        'a.png',
        lambda path: path.write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(9)),
        'a.png: the image',
    ),
    'deleted': ('a.png', lambda path: None, 'a.png is no longer on the server'),
    'folder': ('a.png', lambda path: path.mkdir(), 'a.png is no longer on the server'),
}


@pytest.mark.parametrize(('name', 'make', 'said'), BAD.values(), ids=BAD)
def test_bad_files_are_refused(tmp_path, name, make, said):
    make(tmp_path / name)
    with pytest.raises(InputError) as error:
        read_upload(tmp_path / name, LIMITS)
    assert said in str(error.value)
    assert str(tmp_path) not in str(error.value)  # no paths of the server


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'I;16'])
def test_all_kinds_of_images_are_read(tmp_path, mode):
    suffix = 'jpg' if mode == 'CMYK' else 'png'
    image = Image.new('L', (20, 10), 128)
    (Image.fromarray(np.full((10, 20), 9000, np.uint16)) if mode == 'I;16' else image.convert(mode)).save(
        tmp_path / f'a.{suffix}'
    )
    found = read_upload(tmp_path / f'a.{suffix}', LIMITS)
    assert (found.mode, found.size) == ('RGB', (20, 10))


def test_images_are_turned_as_displayed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (20, 10)).save(tmp_path / 'a.jpg', exif=exif)
    assert read_upload(tmp_path / 'a.jpg', LIMITS).size == (10, 20)


@pytest.mark.parametrize(
    ('name', 'stem'),
    [
        ('cat.jpg', 'cat'),
        ('../../etc/passwd', 'passwd'),
        ('my cat?.tar.gz', 'my_cat_tar'),
        ('猫.png', 'image'),
        ('.jpg', 'jpg'),
        ('<b>"x"</b>.png', 'b'),
        ('a' * 300 + '.png', 'a' * 40),
    ],
)
def test_names_of_files_are_plain(name, stem):
    assert file_stem(name) == stem


@pytest.mark.parametrize('limits', [{'pixels': 0}, {'megabytes': -1}])
def test_limits_are_positive(limits):
    with pytest.raises(InputError, match='must be at least 1'):
        Limits(**limits)
