"""The tables below "Images" of docs/input_contract.md."""

import numpy as np

from clipdense.utils.image_io import read_image

SECTION = 'Images'

RGB = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


def _same(source, expected):
    assert np.array_equal(np.asarray(read_image(source)), expected)


READ = {
    '`uint8` array (H, W, 3)': lambda folder: _same(RGB, RGB),
    'array of two images (2, H, W, 3)': lambda folder: read_image(np.stack([RGB, RGB])),
}


def test_row(row, check):
    check(row, READ)
