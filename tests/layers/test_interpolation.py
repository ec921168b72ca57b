"""Interpolation by matrices equals ``F.interpolate``."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.layers.interpolation import interpolation_matrix

SIZES = [(7, 7), (3, 12), (14, 5), (40, 2), (1, 1)]


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('antialias', [False, True], ids=['plain', 'antialias'])
@pytest.mark.parametrize('mode', ['bilinear', 'bicubic'])
def test_as_torch(mode, antialias, size):
    x = torch.randn(1, 3, 7, 7)
    expected = F.interpolate(x, size, mode=mode, antialias=antialias, align_corners=False)
    down, across = (interpolation_matrix(7, length, mode, antialias) for length in size)
    assert_close(down @ x @ across.mT, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_nearest(size):
    x = torch.randn(1, 3, 7, 7)
    down, across = (interpolation_matrix(7, length, 'nearest') for length in size)
    assert_close(down @ x @ across.mT, F.interpolate(x, size, mode='nearest'), atol=0, rtol=0)


@pytest.mark.parametrize('size', SIZES[:4], ids=str)
def test_a_given_scale(size):
    x = torch.randn(1, 3, 7, 7)
    factors = [(length + 0.1) / 7 for length in size]
    expected = F.interpolate(x, scale_factor=factors, mode='bicubic', align_corners=False)
    down, across = (
        interpolation_matrix(7, length, 'bicubic', scale=1 / factor)
        for length, factor in zip(size, factors, strict=True)
    )
    assert_close(down @ x @ across.mT, expected, atol=1e-5, rtol=0)


def test_an_unknown_mode():
    with pytest.raises(ValueError, match=r"mode 'area' cannot be exported: use bilinear, bicubic or nearest"):
        interpolation_matrix(7, 3, 'area')
