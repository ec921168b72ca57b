"""The scores at a point of a result: what a session keeps of it after it was drawn.

K: classes, (H, W): pixels, (h, w): the grid of class scores, k: classes with scores, n: boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdense.inference.results import Detections, Segmentation
from clipdense.vocab.vocabulary import Vocabulary

BEST = 8  # classes of a pixel whose scores are kept


@dataclass(frozen=True)
class Point:
    """A pixel, and class indices with their scores, best first.

    Args:
        column, row: of the pixel.
        label: class of the mask at the pixel; empty for boxes.
        scores: class indices and scores; for boxes those of the boxes around the pixel.
        vocabulary: K classes.
    """

    column: int
    row: int
    label: str
    scores: list[tuple[int, float]]
    vocabulary: Vocabulary


class Points(Protocol):
    """What answers a click."""

    def at(self, x: float, y: float) -> Point:
        """The scores at a point; ``x`` and ``y`` are fractions of the image, 0 to 1."""


@dataclass(frozen=True)
class MaskPoints:
    """Mask and class scores of a segmentation.

    Args:
        mask: (H, W) class indices.
        classes: (k, h, w) class indices, best first.
        probabilities: (k, h, w).
        vocabulary: K classes.
    """

    mask: NDArray[np.integer]
    classes: NDArray[np.integer]
    probabilities: NDArray[np.floating]
    vocabulary: Vocabulary

    @classmethod
    def of(cls, result: Segmentation, probabilities: Tensor) -> MaskPoints:
        """Keep the best of the class probabilities (K, h, w)."""
        best = probabilities.topk(min(BEST, len(probabilities)), dim=0)
        kept = best.indices.to(torch.int16).cpu().numpy(), best.values.half().cpu().numpy()
        return cls(result.mask.astype(np.uint16), *kept, result.vocabulary)

    def at(self, x: float, y: float) -> Point:
        """The class of the mask, and the best classes."""
        row, column = _cell(self.mask.shape, x, y)
        place = (slice(None), *_cell(self.classes.shape[1:], x, y))
        best = zip(self.classes[place].tolist(), self.probabilities[place].tolist(), strict=True)
        label = self.vocabulary.class_names[self.mask[row, column]]
        return Point(column, row, label, list(best), self.vocabulary)


@dataclass(frozen=True)
class BoxPoints:
    """Boxes of detections.

    Args:
        size: (H, W).
        xyxy: (n, 4), best first.
        confidence, class_ids: (n,).
        vocabulary: K classes.
    """

    size: tuple[int, int]
    xyxy: NDArray[np.floating]
    confidence: NDArray[np.floating]
    class_ids: NDArray[np.integer]
    vocabulary: Vocabulary

    @classmethod
    def of(cls, result: Detections) -> BoxPoints:
        """Boxes without masks and image."""
        assert result.image is not None  # the detector keeps what it has read
        size = result.image.height, result.image.width
        return cls(size, result.xyxy, result.confidence, result.class_ids, result.vocabulary)

    def at(self, x: float, y: float) -> Point:
        """The boxes around the point."""
        row, column = _cell(self.size, x, y)
        x1, y1, x2, y2 = self.xyxy.T
        inside = (x1 <= column) & (column < x2) & (y1 <= row) & (row < y2)
        found = zip(self.class_ids[inside].tolist(), self.confidence[inside].tolist(), strict=True)
        return Point(column, row, '', list(found), self.vocabulary)


def _cell(size: tuple[int, ...], x: float, y: float) -> tuple[int, int]:
    """Row and column of a point on a grid (H, W)."""
    row, column = (min(max(int(part * side), 0), side - 1) for part, side in zip((y, x), size, strict=True))
    return row, column
