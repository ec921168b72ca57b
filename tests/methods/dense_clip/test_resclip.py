"""ResCLIP's feedback against a walk along every line."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from clipdense.methods.dense_clip.resclip import _joined, _smooth, same_object


def walk(labels, start, end):
    """Whether every patch on the way, one step at a time, has the label of the start."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    for step in range(steps + 1):
        part = step / max(steps, 1)
        row = round(start[0] + (end[0] - start[0]) * part)
        column = round(start[1] + (end[1] - start[1]) * part)
        if labels[row, column] != labels[start]:
            return False
    return True


@pytest.mark.parametrize('grid', [(4, 4), (3, 6), (6, 3), (1, 5), (1, 1)], ids=str)
def test_joined(grid):
    labels = torch.randint(0, 2, (2, *grid))
    joined, distance = _joined(labels)
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    for index in range(2):
        expected = [[walk(labels[index], a, b) for b in places] for a in places]
        assert joined[index].tolist() == expected
    assert distance.tolist() == [[max(abs(a[0] - b[0]), abs(a[1] - b[1])) for b in places] for a in places]


def test_two_objects_of_one_class():
    """Three patches in a row, 0 1 0: the ends are of one class, apart, at distance 2 of at most 2."""
    got = same_object(torch.tensor([[[0, 1, 0]]]), std=1e-3)  # hardly smoothed
    far = math.exp(-1)
    rows = torch.tensor([[1, 0, far], [0, 1, 0], [far, 0, 1]])
    rows = rows / rows.sum(dim=1, keepdim=True)
    assert_close(got[0], rows / rows.max())


def test_smoothing_is_a_normal_curve():
    row = torch.zeros(1, 1, 9)
    row[0, 0, 4] = 1
    got = _smooth(row, std=1.0)[0, 0]
    curve = torch.tensor([math.exp(-(x**2) / 2) for x in range(-3, 4)])
    assert_close(got[1:8], curve / curve.sum())
    assert got[0] == got[8] == 0
