"""JPEGs decoded by the package simplejpeg, if it is installed: Pillow's pixels in less time.

Both use libjpeg-turbo.  Pillow decodes in portions into four bytes for each pixel, and copies them twice.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


@functools.cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def decode_jpeg(data: bytes, width: int, height: int, factor: int = 1) -> np.ndarray | None:
    """A JPEG of 8-bit color -> (H / factor, W / factor, 3) uint8 RGB, sides rounded up.

    None if simplejpeg is not installed, if it finds a fault in the file, about which Pillow then decides,
    and if a side has fewer pixels than ``factor``.

    Args:
        data: the file.
        width, height: at full size, as in the header.
        factor: 1, 2, 4 or 8.
    """
    package = _simplejpeg()
    if package is None or min(width, height) < factor:
        return None
    shape = -(-height // factor), -(-width // factor), 3
    try:
        pixels = package.decode_jpeg(data, min_height=shape[0], min_width=shape[1])
    except (ValueError, MemoryError):
        return None
    return pixels if pixels.shape == shape else None
