"""From class logits to a mask in chunks of classes, without the full-size logits of all classes.

Q: queries, q: queries of a chunk, (h, w): patch grid of a window, (H, W): pixels of the result.  5,000
classes on 512 x 512 pixels are 5.2 GB of logits; here a chunk of classes is upsampled, merged over windows
and folded into a running maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .bands import Rows, upsample_rows, view_rows
from .windows import Window


class PixelMaximum(NamedTuple):
    """The winning query of each pixel."""

    query: Tensor  # (H, W) int64
    logit: Tensor  # (H, W) of the winner
    normalizer: Tensor  # (H, W) logarithm of the sum of exponentials over all queries

    @property
    def probability(self) -> Tensor:
        """(H, W) the winner's softmax among all queries."""
        return (self.logit - self.normalizer).exp()


def reduce_queries(full_logits: Callable[[Tensor], Tensor], queries: Tensor, chunk: int) -> PixelMaximum:
    """Take the maximum over queries, one chunk after another.

    The mask equals that of an argmax over all logits: upsampling, averaging and refining
    treat each class separately, and the first of equal logits wins in both.

    Args:
        full_logits: function of queries (q,) that returns their logits (q, H, W).
        queries: (Q,) int64, indices of the queries.
        chunk: number of queries per call.

    Raises:
        ValueError: no queries.
    """
    if not len(queries):
        raise ValueError('no classes to choose from')
    running: PixelMaximum | None = None
    for part in queries.split(chunk):
        logits = full_logits(part)  # (q, H, W)
        best, place = logits.max(dim=0)
        found = PixelMaximum(part[place], best, logits.logsumexp(dim=0))
        running = found if running is None else _better(running, found)
    assert running is not None
    return running


class KeptLogits:
    """The probability of each class, kept while ``reduce_queries`` looks for the maximum.

    Args:
        num_classes: K.
        size: (H, W).
        query_class: (Q,) class of each query; the probability of a class is that of its best query.

    Attributes:
        probabilities: (K, H, W) fp32, in memory of the CPU; filled by ``reduce``.
    """

    def __init__(self, num_classes: int, size: tuple[int, int], query_class: Tensor) -> None:
        self.query_class = query_class
        self.probabilities = torch.zeros(num_classes, *size)

    def reduce(
        self, full_logits: Callable[[Tensor], Tensor], queries: Tensor, chunk: int, rows: Rows
    ) -> PixelMaximum:
        """``reduce_queries`` for some rows, whose probabilities are kept."""
        kept = self.probabilities[:, rows.top : rows.bottom].fill_(-torch.inf)  # a view

        def keep(part: Tensor) -> Tensor:
            logits = full_logits(part)
            for index, one in zip(self.query_class[part].tolist(), logits, strict=True):
                torch.maximum(kept[index], one.to(kept), out=kept[index])
            return logits

        best = reduce_queries(keep, queries, chunk)
        normalizer = best.normalizer.to(kept)
        for one in kept:
            one.sub_(normalizer).exp_()
        return best


def _better(first: PixelMaximum, second: PixelMaximum) -> PixelMaximum:
    """The maximum of both; the first for equal logits."""
    better = second.logit > first.logit
    return PixelMaximum(
        torch.where(better, second.query, first.query),
        torch.where(better, second.logit, first.logit),
        torch.logaddexp(first.normalizer, second.normalizer),
    )


def merge_windows(
    logits: Sequence[Tensor],
    windows: Sequence[Window],
    size: tuple[int, int],
    result_size: tuple[int, int],
    rows: Rows | None = None,
) -> Tensor:
    """Logits (1, q, h, w) of each window -> (q, H, W): upsampled, averaged where windows overlap.

    A window of the whole image is upsampled to the result at once.

    Args:
        logits: of each window.
        windows: their positions; at least those that contribute to the rows.
        size: of the resized image.
        result_size: (H, W).
        rows: the rows of the result that are computed; all by default.

    Source: mmsegmentation ``slide_inference``, which the SCLIP protocol uses.
    """
    if rows is not None and rows != (0, result_size[0]):
        return _merged_rows(logits, windows, size, result_size, rows)
    if windows[0].size == size:
        return _upsample(logits[0], result_size)[0]
    canvas = logits[0].new_zeros(logits[0].shape[1], *size)
    count = canvas.new_zeros(size)
    for part, (top, left, bottom, right) in zip(logits, windows, strict=True):
        canvas[:, top:bottom, left:right] += _upsample(part, (bottom - top, right - left))[0]
        count[top:bottom, left:right] += 1
    return _upsample(canvas.div_(count)[None], result_size)[0]


def _merged_rows(
    logits: Sequence[Tensor],
    windows: Sequence[Window],
    size: tuple[int, int],
    result_size: tuple[int, int],
    rows: Rows,
) -> Tensor:
    """``merge_windows`` for some rows, (q, rows, W), of the windows that contribute to them."""
    if windows[0].size == size:
        height = logits[0].shape[-2]
        return upsample_rows(logits[0], Rows(0, height), height, result_size, rows)[0]
    needed = view_rows(rows, size, result_size)
    canvas = logits[0].new_zeros(logits[0].shape[1], needed.bottom - needed.top, size[1])
    count = canvas.new_zeros(canvas.shape[1:])
    for part, (top, left, bottom, right) in zip(logits, windows, strict=True):
        shared = Rows(max(top, needed.top), min(bottom, needed.bottom))
        if shared.top >= shared.bottom:
            continue
        window = _upsample(part, (bottom - top, right - left))[0]
        canvas[:, shared.within(needed), left:right] += window[:, shared.within(Rows(top, bottom))]
        count[shared.within(needed), left:right] += 1
    return upsample_rows(canvas.div_(count)[None], needed, size[0], result_size, rows)[0]


def _upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size, mode='bilinear', align_corners=False)
