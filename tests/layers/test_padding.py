"""Padding to multiples of a stride."""

from __future__ import annotations

import pytest
import torch

from clipdense.layers.padding import pad_to_multiple, padded_size


@pytest.mark.parametrize(
    ('size', 'padded'), [((32, 64), (32, 64)), ((1, 33), (32, 64)), ((65, 32), (96, 32))]
)
def test_zeros_to_the_right_and_below(size, padded):
    assert padded_size(size, 32) == padded
    found = pad_to_multiple(torch.ones(1, 3, *size), 32)
    assert found.shape[-2:] == padded
    assert (found[..., : size[0], : size[1]] == 1).all()
    assert found.sum() == 3 * size[0] * size[1]
