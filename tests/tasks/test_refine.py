"""PAMR against the official outputs and against a loop over pixels."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.tasks.refine import PAMR
from clipdense.utils.errors import InputError


@pytest.mark.parametrize(
    ('iterations', 'dilations', 'output'), [(10, (8, 16), 'it10_d8_16'), (2, (1, 2), 'it2_d1_2')]
)
def test_official(golden, iterations, dilations, output):
    tensors, _ = golden('denseclip_tiny')
    got = PAMR(iterations, dilations)(tensors['input.pamr.image'][0], tensors['input.pamr.mask'][0])
    assert_close(got, tensors[f'output.pamr.{output}'][0], atol=1e-5, rtol=1e-4)


def naive(image, scores, iterations, dilations):
    """The paper's formula, pixel by pixel; what lies outside is the nearest pixel inside."""
    height, width = image.shape[1:]

    def at(planes, row, column):
        return planes[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]

    around = [(i * d, j * d) for d in dilations for i in (-1, 0, 1) for j in (-1, 0, 1)]
    moves = [move for move in around if move != (0, 0)]
    for _ in range(iterations):
        refined = torch.empty_like(scores)
        for row in range(height):
            for column in range(width):
                seen = torch.stack([at(image, row + i, column + j) for i, j in around])
                spread = seen.std(dim=0)
                near = torch.stack([at(image, row + i, column + j) for i, j in moves])
                unlike = ((near - image[:, row, column]).abs() / (1e-8 + 0.1 * spread)).mean(dim=1)
                shares = (-unlike).softmax(dim=0)
                values = torch.stack([at(scores, row + i, column + j) for i, j in moves])
                refined[:, row, column] = (shares[:, None] * values).sum(dim=0)
        scores = refined
    return scores


@pytest.mark.parametrize('dilations', [(1,), (2, 5)], ids=str)
@pytest.mark.parametrize('size', [(6, 9), (1, 4)], ids=str)
def test_equals_the_loop(dilations, size):
    image, scores = torch.rand(3, *size), torch.randn(2, *size)
    got = PAMR(3, dilations)(image, scores)
    assert_close(got, naive(image, scores, 3, dilations), atol=1e-5, rtol=1e-4)


def test_classes_are_refined_apart():
    """So that chunks of a large vocabulary give what all classes together give."""
    pamr, image, scores = PAMR(2, (1, 2)), torch.rand(3, 12, 10), torch.randn(5, 12, 10)
    affinity = pamr.affinity(image)
    parts = torch.cat([pamr.refine(part, affinity) for part in scores.split(2)])
    assert_close(parts, pamr(image, scores))
    assert_close(affinity.sum(dim=0), torch.ones(12, 10))


def test_a_plain_image_smooths_and_invents_nothing():
    scores = torch.randn(2, 8, 8)
    got = PAMR(5, (1,))(torch.full((3, 8, 8), 0.5), scores)
    assert got.isfinite().all()
    assert got.std() < scores.std()
    assert (got.amax(), -got.amin()) <= (scores.amax(), -scores.amin())


@pytest.mark.parametrize(('iterations', 'dilations'), [(0, (1,)), (1, ()), (1, (0,))])
def test_refusals(iterations, dilations):
    with pytest.raises(InputError, match='>= 1'):
        PAMR(iterations, dilations)
