"""Outlying patches against the plain definition, and their repair against a loop."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.methods.dense_clip.outliers import find_outliers, repair


def naive_factor(tokens, neighbours):
    """Local outlier factor by its definition, reach taken from the token's own k-distance."""
    distance = (tokens[:, None] - tokens).square().sum(dim=-1)
    order = distance.argsort(dim=1)[:, 1 : neighbours + 1]
    reach = distance.gather(1, order).amax(dim=1)
    density = 1 / reach
    return torch.stack([density[near].mean() / own for near, own in zip(order, density, strict=True)])


@pytest.mark.parametrize('neighbours', [3, 7])
def test_factor(neighbours):
    tokens = torch.randn(2, 40, 6)
    tokens[:, 5] += 8
    got = find_outliers(tokens, neighbours, 0.05)
    for index in range(2):
        factor = naive_factor(tokens[index], neighbours)
        assert torch.equal(got[index], factor > factor.quantile(0.95))
        assert got[index, 5]


@pytest.mark.parametrize('count', [1, 2, 5])
def test_few_patches_have_fewer_neighbours(count):
    assert find_outliers(torch.randn(1, count, 4), 30, 0.05).shape == (1, count)


@pytest.mark.parametrize('grid', [(4, 7), (7, 4), (1, 5)], ids=str)
def test_repair(grid):
    """On images that are not square too, where the official code mixes up rows and columns."""
    height, width = grid
    tokens = torch.randn(1, height * width, 3)
    outliers = torch.rand(1, height * width) < 0.4
    got = repair(tokens, outliers, grid)
    expected = tokens.clone()
    for place in outliers[0].nonzero().flatten().tolist():
        row, column = divmod(place, width)
        near = [
            tokens[0, r * width + c]
            for r in range(max(row - 1, 0), min(row + 2, height))
            for c in range(max(column - 1, 0), min(column + 2, width))
            if not outliers[0, r * width + c]
        ]
        if near:
            expected[0, place] = torch.stack(near).mean(dim=0)
    assert_close(got, expected)
