"""Bands of rows, in which large images are resized and classified in bounded memory.  (H, W): pixels.

Small images have a single band, and go through the same operations as without bands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Rows(NamedTuple):
    """A range of rows of an image; bottom is exclusive."""

    top: int
    bottom: int

    def widened(self, margin: int, height: int) -> Rows:
        """With ``margin`` more rows on both sides, within the image."""
        return Rows(max(0, self.top - margin), min(height, self.bottom + margin))

    def within(self, other: Rows) -> slice:
        """The place of these rows in an array that begins with the first row of ``other``."""
        return slice(self.top - other.top, self.bottom - other.top)


def bands(size: tuple[int, int], pixels: int) -> list[Rows]:
    """Rows of an image (H, W), from top to bottom, in bands of at most ``pixels`` pixels or one row."""
    height, width = size
    step = max(1, pixels // width)
    return [Rows(top, min(top + step, height)) for top in range(0, height, step)]


def assemble(size: tuple[int, int], parts: Iterable[tuple[Rows, Sequence[Tensor]]]) -> list[Tensor]:
    """Maps of each band, (rows, W) each -> maps (H, W); those of a single band are returned unchanged."""
    whole: list[Tensor] = []
    for rows, maps in parts:
        if rows == (0, size[0]):
            return list(maps)
        whole = whole or [one.new_empty(size) for one in maps]
        for canvas, one in zip(whole, maps, strict=True):
            canvas[rows.top : rows.bottom] = one
    return whole


def source_rows(rows: Rows, height: int, result_height: int) -> Rows:
    """The rows of maps of ``height`` rows that bilinear resizing to ``result_height`` needs for ``rows``."""
    low, high, _ = _vertical(rows, height, result_height)
    return Rows(int(low[0]), int(high[-1]) + 1)


def view_rows(rows: Rows, size: tuple[int, int], result_size: tuple[int, int]) -> Rows:
    """The rows of maps (h, w) that ``rows`` of a result (H, W) depend on."""
    return rows if size == result_size else source_rows(rows, size[0], result_size[0])


def upsample_rows(maps: Tensor, given: Rows, height: int, size: tuple[int, int], rows: Rows) -> Tensor:
    """Rows of ``interpolate(maps, size, mode='bilinear')``.

    Args:
        maps: (..., n, w), some of the ``height`` rows of the maps.
        given: which rows these are; at least ``source_rows``.
        height: number of rows of the whole maps.
        size: (H, W) of the whole result.
        rows: the rows of the result that are computed.

    Returns:
        (..., rows, W)
    """
    if (height, maps.shape[-1]) == size:
        return maps[..., rows.within(given), :]
    if rows == (0, size[0]) and given == (0, height):
        return F.interpolate(maps, size, mode='bilinear', align_corners=False)
    low, high, weight = _vertical(rows, height, size[0])
    needed = Rows(int(low[0]), int(high[-1]) + 1)
    wide = maps[..., needed.within(given), :]
    if wide.shape[-1] != size[1]:
        wide = F.interpolate(wide, (wide.shape[-2], size[1]), mode='bilinear', align_corners=False)
    above, below = (wide[..., (one - needed.top).to(maps.device), :] for one in (low, high))
    weight = weight[:, None].to(maps.device, maps.dtype)
    return above.mul_(1 - weight).add_(below.mul_(weight))


def resize(image: Tensor, size: tuple[int, int], prepare: Callable[[Tensor], Tensor], pixels: int) -> Tensor:
    """(3, H, W) of any type -> (3, *size) float, antialiased; see ``resize_rows``."""
    whole = (image.shape[-2], image.shape[-1])
    return resize_rows(lambda rows: image[:, rows.top : rows.bottom], whole, size, prepare, pixels)


def resize_rows(
    read: Callable[[Rows], Tensor],
    whole: tuple[int, int],
    size: tuple[int, int],
    prepare: Callable[[Tensor], Tensor],
    pixels: int,
) -> Tensor:
    """Resize an image that is read in bands of rows, antialiased.

    Args:
        read: some rows of the image, (3, n, W) of any type; they are asked from top to bottom.
        whole: (H, W) of the image.
        size: of the result.
        prepare: conversion to float values, pixel by pixel, before resizing.
        pixels: larger images are converted and resized to their width in bands, then to their height.

    Returns:
        (3, *size) float.
    """
    if size == whole:
        return prepare(read(Rows(0, whole[0])))
    if whole[0] * whole[1] <= pixels:
        image = prepare(read(Rows(0, whole[0])))
        return F.interpolate(image[None], size, mode='bilinear', antialias=True)[0]
    narrow = [
        F.interpolate(
            prepare(read(rows))[None], (rows.bottom - rows.top, size[1]), mode='bilinear', antialias=True
        )[0]
        for rows in bands(whole, pixels)
    ]
    return F.interpolate(torch.cat(narrow, dim=1)[None], size, mode='bilinear', antialias=True)[0]


def _vertical(rows: Rows, height: int, result_height: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each row of a bilinear result: the two source rows, and the weight of the second; as in torch."""
    scale = (torch.tensor(float(height)) / torch.tensor(float(result_height))).double()  # rounded to float32
    place = (torch.arange(rows.top, rows.bottom, dtype=torch.float64) + 0.5) * scale - 0.5
    place = place.float().clamp_(min=0)  # rounded once, as by a fused multiply-add
    low = place.long().clamp_(max=height - 1)
    return low, (low + 1).clamp_(max=height - 1), (place - low).clamp_(0, 1)
