"""Encoded images, which a segmenter keeps before it knows the class names, and their labels.

B: windows of a batch, (h, w): pixels of the resized image, (H, W): of the result, K: classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from clipdense.layers.precision import at_least_fp32

from .bands import Rows
from .windows import Window


class View(NamedTuple):
    """An encoded image at one scale, before classification; or the part of it that some rows depend on."""

    size: tuple[int, int]  # (h, w) in pixels, of the whole image
    windows: list[Window]
    features: list[Any]  # of each batch of windows
    mirrored: bool

    def crossing(self, rows: Rows) -> View:
        """The batches that have windows in some rows of the image."""
        windows, features, start = [], [], 0
        for batch in self.features:
            own = self.windows[start : start + batch_length(batch)]
            start += len(own)
            if any(window.top < rows.bottom and rows.top < window.bottom for window in own):
                windows += own
                features.append(batch)
        return self._replace(windows=windows, features=features)


class EncodedImage(NamedTuple):
    """Input of ``SegmentationModel.classify_image``."""

    image: Tensor  # (3, h, w) resized, normalized
    views: list[View]


class EncodedRows(NamedTuple):
    """Input of ``SegmentationModel.classify_rows``: the part of an encoded image that some rows depend on."""

    image: Tensor  # (3, n, w) resized, normalized
    views: list[View]
    given: Rows  # the rows of the resized image that these are
    height: int  # of the resized image


class PixelLabels(NamedTuple):
    """The prediction for one image."""

    classes: Tensor  # (H, W) int64
    probability: Tensor  # (H, W) of that class among all
    every: Tensor | None = None  # (K, H, W) fp32, the probability of each class; only if asked


def batch_length(features: Any) -> int:
    """B, the number of windows in a tensor or tuple of tensors."""
    return len(features) if isinstance(features, Tensor) else batch_length(features[0])


def features_fp32(features: Any) -> Any:
    """Features of a model in half precision become single, since class embeddings are."""
    if isinstance(features, Tensor):
        return at_least_fp32(features) if features.is_floating_point() else features
    return tuple(features_fp32(part) for part in features)


def tensors_of(features: Any) -> Iterator[Tensor]:
    """The tensors of features."""
    if isinstance(features, Tensor):
        yield features
        return
    for part in features:
        yield from tensors_of(part)
