"""From class logits to a mask without ever holding all classes at full size.

Q: queries, (h, w): patch grid of a window, (H, W): pixels of the result.  5,000 classes on 512 x 512 pixels
are 5.2 GB of logits; here a chunk of classes is upsampled, merged over windows and folded into a running
maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .windows import Window

_PLANES = 4  # full-size copies of a chunk that live at the same time: canvas, upsampled window, result, exp


class PixelMaximum(NamedTuple):
    """The winning query of each pixel."""

    query: Tensor  # (H, W) int64
    probability: Tensor  # (H, W) its softmax among all queries


def reduce_queries(
    window_logits: Callable[[slice], Sequence[Tensor]],
    num_queries: int,
    windows: Sequence[Window],
    size: tuple[int, int],
    result_size: tuple[int, int],
    budget: int,
) -> PixelMaximum:
    """Merge windows, upsample and take the maximum, one chunk of queries after another.

    The mask is that of the plain way (all logits at once, then argmax): upsampling and averaging treat
    each class on its own, and of equal logits the first wins in both.

    Args:
        window_logits: for a slice of the queries, the logits (1, q, h, w) of each window.
        num_queries: Q.
        windows: where the windows lie in the resized picture.
        size: of the resized picture.
        result_size: (H, W).
        budget: bytes that the chunk may take at full size.
    """
    pixels = max(size[0] * size[1], result_size[0] * result_size[1])
    chunk = max(1, min(num_queries, budget // (_PLANES * 4 * pixels)))
    running: _Running | None = None
    for first in range(0, num_queries, chunk):
        part = slice(first, min(first + chunk, num_queries))
        logits = merge_windows(window_logits(part), windows, size, result_size)  # (q, H, W)
        if running is None:
            running = _Running(logits)
        else:
            running.update(logits, first)
    if running is None:
        raise ValueError('no classes to choose from')
    return PixelMaximum(running.query, (running.best - running.normaliser).exp())


def merge_windows(
    logits: Sequence[Tensor], windows: Sequence[Window], size: tuple[int, int], result_size: tuple[int, int]
) -> Tensor:
    """Logits (1, q, h, w) of each window -> (q, H, W): upsampled, averaged where windows overlap.

    A single window is upsampled to the result at once.

    Source: mmsegmentation ``slide_inference``, which the SCLIP protocol uses.
    """
    if len(windows) == 1:
        return _upsample(logits[0], result_size)[0]
    canvas = logits[0].new_zeros(logits[0].shape[1], *size)
    count = canvas.new_zeros(size)
    for part, (top, left, bottom, right) in zip(logits, windows, strict=True):
        canvas[:, top:bottom, left:right] += _upsample(part, (bottom - top, right - left))[0]
        count[top:bottom, left:right] += 1
    return _upsample(canvas.div_(count)[None], result_size)[0]


class _Running:
    """Best query so far and the logarithm of the softmax normaliser."""

    def __init__(self, logits: Tensor) -> None:
        self.best, self.query = logits.max(dim=0)
        self.normaliser = logits.logsumexp(dim=0)

    def update(self, logits: Tensor, first: int) -> None:
        best, query = logits.max(dim=0)
        better = best > self.best
        self.best = torch.where(better, best, self.best)
        self.query = torch.where(better, query + first, self.query)
        self.normaliser = torch.logaddexp(self.normaliser, logits.logsumexp(dim=0))


def _upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size, mode='bilinear', align_corners=False)
