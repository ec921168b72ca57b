"""Chunk by chunk gives what all classes at once give; sliding windows give what the official code gives."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate
from torch.testing import assert_close

from clipdense.tasks.reduction import merge_windows, reduce_queries
from clipdense.tasks.windows import Slide


@pytest.mark.parametrize('queries', [1, 2, 37])
@pytest.mark.parametrize('chunk', [1, 5, 36, 37, 1000])
def test_chunks_equal_the_plain_way(queries, chunk):
    size, result = (24, 40), (31, 53)
    windows = Slide(window=16, stride=8).windows(size)
    logits = [torch.randn(1, queries, 4, 4) for _ in windows]
    got = reduce_queries(
        lambda part: merge_windows([window[:, part] for window in logits], windows, size, result),
        torch.arange(queries),
        chunk,
    )
    plain = merge_windows(logits, windows, size, result)
    assert torch.equal(got.query, plain.argmax(dim=0))
    assert_close(got.probability, plain.softmax(dim=0).amax(dim=0))


def test_of_equal_logits_the_first_wins():
    same = torch.zeros(4, 2, 2)
    got = reduce_queries(lambda part: same[part], torch.arange(4), chunk=1)
    assert got.query.unique().tolist() == [0]
    assert got.probability.unique().item() == pytest.approx(0.25)


def test_no_classes():
    with pytest.raises(ValueError, match='no classes'):
        reduce_queries(lambda part: part, torch.arange(0), chunk=1)


def test_a_choice_among_some_queries_names_them():
    logits = torch.tensor([5.0, 1.0, 2.0, 3.0])[:, None, None].expand(4, 2, 2)
    got = reduce_queries(lambda part: logits[part], torch.tensor([1, 3]), chunk=1)
    assert got.query.unique().tolist() == [3]


def test_overlaps_are_averaged():
    """Two windows of four columns that share two: 1 and 3 meet at 2."""
    windows = Slide(window=4, stride=2).windows((4, 6))
    logits = [torch.full((1, 1, 1, 1), value) for value in (1.0, 3.0)]
    assert merge_windows(logits, windows, (4, 6), (4, 6))[0, 0].tolist() == [1, 1, 2, 2, 3, 3]


def test_a_single_window_is_upsampled_once():
    logits = torch.randn(1, 3, 4, 5)
    got = merge_windows([logits], Slide().windows((32, 40)), (32, 40), (70, 90))
    assert_close(got, interpolate(logits, (70, 90), mode='bilinear', align_corners=False)[0])
