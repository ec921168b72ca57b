"""Resizing and sliding windows of images of any size.

(H, W): pixels, B: windows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipdense.utils.errors import InputError
from clipdense.utils.image_open import MAX_PIXELS


class Window(NamedTuple):
    """A part of an image, in pixels; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.bottom - self.top, self.right - self.left

    def cut(self, image: Tensor) -> Tensor:
        """(..., H, W) -> this part of it."""
        return image[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Slide:
    """Resizing, sliding windows and test-time augmentation of an image.

    Args:
        short_side: the image is resized to this shorter side first, in pixels; None keeps its size.
        long_side: bound on the longer side after that, for very long images.
        window: side of the square windows; None uses the whole image.
        stride: distance between windows, at most ``window``.
        batch: windows per forward pass; by default as many as the memory budget allows.
        scales: relative image sizes whose class scores are averaged.
        flip: average over the horizontally flipped image too.

    Raises:
        InputError: sizes that are not positive, or a stride that leaves gaps.
    """

    short_side: int | None = None
    long_side: int = 2048
    window: int | None = None
    stride: int | None = None
    batch: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, 'scales', tuple(self.scales))  # a config gives a list
        for name in ('short_side', 'long_side', 'window', 'stride', 'batch'):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or value < 1):
                raise InputError(f'{name} must be a number of at least 1, got {value!r}')
        if self.window is not None and self.step > self.window:
            raise InputError(f'stride {self.stride} must not be larger than the window of {self.window}')
        if not self.scales or not all(isinstance(one, int | float) and one > 0 for one in self.scales):
            raise InputError(f'scales must be one or more positive numbers, got {self.scales}')

    @property
    def step(self) -> int:
        """The stride; half a window by default."""
        return self.stride or max(1, (self.window or 2) // 2)

    def check(self, patch: int) -> None:
        """Check that a window is at least as large as a patch.

        Raises:
            InputError: smaller windows.
        """
        if self.window is not None and self.window < patch:
            raise InputError(
                f'windows of {self.window} pixels are smaller than a patch of {patch}; '
                f'use a window of at least {patch}, or none'
            )

    def views(self) -> Iterator[tuple[float, bool]]:
        """Pairs of scale and horizontal flip."""
        for scale in self.scales:
            yield from ((scale, mirrored) for mirrored in ((False, True) if self.flip else (False,)))

    def resized(self, size: tuple[int, int], smallest: int, scale: float = 1.0) -> tuple[int, int]:
        """(H, W) that an image is resized to; neither side falls below ``smallest`` (a patch).

        Raises:
            InputError: it would be enlarged beyond ``MAX_PIXELS``.
        """
        height, width = size
        if self.short_side is not None:
            scale *= min(self.short_side / min(size), max(self.long_side, self.short_side) / max(size))
        most = max(MAX_PIXELS, height * width)
        if height * width * scale * scale > most:
            raise InputError(
                f'an image of {width} x {height} pixels, enlarged {scale:.4g} times, has more than {most} '
                'pixels: reduce short_side or scales'
            )
        # Halves go up, as in mmcv, whose protocols these are; Python rounds them to the even side.
        return max(smallest, int(height * scale + 0.5)), max(smallest, int(width * scale + 0.5))

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """Windows that cover (H, W), row by row; the last of a row or column is shifted inwards to fit."""
        if self.window is None or max(size) <= self.window:
            return [Window(0, 0, *size)]
        rows, columns = (self._starts(length) for length in size)
        height, width = (min(self.window, length) for length in size)
        return [Window(top, left, top + height, left + width) for top in rows for left in columns]

    def _starts(self, length: int) -> list[int]:
        assert self.window is not None
        last = max(length - self.window, 0)
        return [min(index * self.step, last) for index in range(ceil(last / self.step) + 1)]


def encode_windows(
    encode: Callable[[Tensor], Any],
    images: Sequence[Tensor],
    windows: Sequence[Sequence[Window]],
    batch_size: Callable[[int, int], int],
) -> list[list[Any]]:
    """Encode the windows of images; those of one size share batches.

    Args:
        encode: (B, 3, h, w) -> a tensor or a tuple of tensors, B first in each.
        images: (3, H, W) each.
        windows: of each image.
        batch_size: the number of windows (h, w) in a batch.

    Returns:
        Features of each image, in the order of its windows: one part for each batch.
    """
    features: list[list[Any]] = [[] for _ in images]
    every = [(window.size, index, window) for index, own in enumerate(windows) for window in own]
    every.sort(key=lambda one: one[0])  # stable: the windows of an image have one size, and keep their order
    for size, group in groupby(every, key=lambda one: one[0]):
        places = [(index, window) for _, index, window in group]
        step = batch_size(*size)
        for first in range(0, len(places), step):
            batch = places[first : first + step]
            encoded = encode(torch.stack([window.cut(images[index]) for index, window in batch]))
            start = 0
            for index, same in groupby(batch, key=lambda one: one[0]):
                stop = start + len(list(same))
                features[index].append(_part(encoded, start, stop, len(batch)))
                start = stop
    return features


def _part(encoded: Any, start: int, stop: int, count: int) -> Any:
    """Some rows of a tensor or of each of a tuple of tensors; all of them are returned unchanged."""
    if stop - start == count:
        return encoded
    if isinstance(encoded, Tensor):
        return encoded[start:stop]
    return tuple(_part(one, start, stop, count) for one in encoded)
