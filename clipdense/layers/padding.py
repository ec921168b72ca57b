"""Padding of images to multiples of a stride.  B: images, (H, W): pixels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .exporting import exporting


def padded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Both sides rounded up to multiples."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """(B, 3, H, W), padded with zeros (the mean of normalized images) at the right and bottom."""
    height, width = images.shape[-2:]
    bottom, right = padded_size((height, width), multiple)
    if not exporting() and (bottom, right) == (height, width):
        return images
    return F.pad(images, (0, right - width, 0, bottom - height))
