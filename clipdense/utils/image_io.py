"""Read and write images and masks with Pillow.  (H, W): pixels as displayed.

Rules for all images: EXIF orientation is applied; transparent pixels become white; the first frame of an
animation is used; 16-bit values are divided by 257, not clipped; color profiles are
ignored; arrays are RGB, since nothing distinguishes them from BGR.  ``image_arrays`` has the ranges of
values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from .errors import InputError
from .files import atomic_write
from .image_arrays import array_to_8_bit, stored_to_8_bit, tensor_to_array
from .image_open import MAX_PIXELS, check_pixels, decode, no_memory, opened
from .jpeg import decode_jpeg

if TYPE_CHECKING:
    from torch import Tensor

    Source = str | Path | bytes | IO[bytes] | Image.Image | np.ndarray | Tensor

_BAND = 1 << 22  # pixels that are converted at a time
ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LOW_BIT_STEPS = {'L;2': 85, 'L;4': 17}  # Pillow spreads gray PNGs of 2 and 4 bits over 0 ... 255


def read_image(
    source: Source, max_pixels: int = MAX_PIXELS, shrink: Callable[[int, int], int] | None = None
) -> Image.Image:
    """Read any image as 8-bit RGB.

    Args:
        source: a path, encoded bytes, a binary file, a Pillow image, an array (H, W) or (H, W, 1 | 3 | 4), or
            a tensor (1 | 3 | 4, H, W) or (H, W); see ``image_arrays`` for the range of their values.
        max_pixels: larger images raise an error before they are decoded; files may have 8 bytes for each.
        shrink: width and height of the image -> 1, 2, 4 or 8: a JPEG is decoded at this fraction of its size,
            which takes less time.  It is not called for other formats.

    Returns:
        An image of mode RGB without metadata, in displayed orientation.

    Raises:
        InputError: no file or not a regular one, not an image, damaged or truncated, too large, of an unknown
            layout, or values of an uncertain range.
    """
    if hasattr(source, 'detach') and hasattr(source, 'cpu'):  # a tensor; does not need to import torch
        source = tensor_to_array(source)
    if isinstance(source, np.ndarray):
        if source.ndim > 1 and source.size:
            check_pixels((source.shape[1], source.shape[0]), max_pixels, 'the array')
        values = array_to_8_bit(source)
        return _to_rgb(
            Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2:] == (1,) else values))
        )
    with opened(source, max_pixels) as (image, name):
        if shrink is not None and image is not source and isinstance(image, JpegImageFile):
            _draft(image, shrink)
        decode(image, name)
        try:
            return _to_rgb(_turned(image), name, own=image is not source)
        except (ValueError, OSError) as error:
            raise InputError(
                f'cannot convert an image of mode {image.mode} to RGB; save it as RGB'
            ) from error
        except MemoryError as error:
            raise InputError(no_memory(image, name)) from error


def read_pixels(
    source: str | Path | bytes, max_pixels: int = MAX_PIXELS, shrink: Callable[[int, int], int] | None = None
) -> np.ndarray:
    """``read_image`` of a file or its bytes as (H, W, 3) uint8; JPEGs by simplejpeg if it is installed."""
    with opened(source, max_pixels) as (image, _):
        if image.format == 'JPEG' and image.mode == 'RGB' and _orientation(image) not in _TURNS:
            factor = 1 if shrink is None else shrink(*image.size)
            data = source if isinstance(source, bytes) else Path(source).read_bytes()
            pixels = decode_jpeg(data, *image.size, factor)
            if pixels is not None:
                return pixels
            shrink = None if shrink is None else lambda width, height: factor  # it is asked once
    return np.array(read_image(source, max_pixels, shrink))


def read_mask(path: str | Path | bytes | IO[bytes], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read the class indices of a label mask.

    Palette files give indices, not colors; gray files of 1 to 16 bits give their values.

    Returns:
        (H, W) uint8, or int32 for files of more than 8 bits.

    Raises:
        InputError: as ``read_image``; also for color images and for JPEG, which alters labels.
    """
    with opened(path, max_pixels) as (image, name):
        if image.format in ('JPEG', 'MPO'):
            raise InputError(f'{name} is a JPEG, whose lossy compression changes labels; masks must be PNG')
        tiles = getattr(image, 'tile', None)
        raw_mode = str(tiles[0].args) if tiles else ''
        decode(image, name)
        image = _turned(image)
    if image.mode in ('1', 'L', 'P'):
        indices = np.asarray(image).astype(np.uint8)
        return indices // _LOW_BIT_STEPS.get(raw_mode, 1)
    if image.mode == 'I' or image.mode.startswith('I;16'):
        return np.asarray(image).astype(np.int32)
    colors = image.getcolors(maxcolors=1 << 16)
    count = len(colors) if colors else 'more than 65536'
    raise InputError(
        f'{name} is a color image (mode {image.mode}, {count} colors), not a mask of class indices; '
        'convert its colors to indices and save a palette or gray PNG'
    )


def write_mask(path: str | Path, mask: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Write class indices as a palette PNG, or as a 16-bit gray PNG if one is above 255.

    Args:
        path: ends in ``.png``.
        mask, palette: as in ``mask_to_image``.

    Raises:
        InputError: another ending, or as ``mask_to_image``.
    """
    if Path(path).suffix.lower() != '.png':
        raise InputError(f'masks are saved as PNG; {path} must end in .png')
    image = mask_to_image(mask, palette)
    with atomic_write(path) as file:
        image.save(file, 'PNG')


def mask_to_image(mask: np.ndarray, palette: np.ndarray | None = None) -> Image.Image:
    """Class indices as a Pillow image of mode P, or I;16 if one is above 255.

    Args:
        mask: (H, W), any integer type, 0 ... 65535.
        palette: (n, 3) uint8 colors of the first n indices; other indices have the colors of VOC.

    Raises:
        InputError: another shape or type, or indices out of range.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not mask.size or mask.dtype.kind not in 'iub':
        raise InputError(f'a mask must be (H, W) integers, got shape {mask.shape} and dtype {mask.dtype}')
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high > 65535:
        raise InputError(f'mask values must be 0 to 65535, got {low} to {high}')
    if high > 255:
        return Image.fromarray(mask.astype(np.uint16))
    colors = _voc_palette().copy()
    if palette is not None:
        colors[: len(palette)] = np.asarray(palette, np.uint8)[:256]
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(colors.tobytes())  # changes mode L to P; indices stay the same
    return image


def voc_palette(count: int = 256) -> np.ndarray:
    """(count, 3) uint8 colors of PASCAL VOC.

    The three bits of an index's d-th digit in base 8 are bit 7 - d of its red, green and blue.
    """
    index = np.arange(count, dtype=np.int64)[:, None]
    colors = np.zeros((count, 3), np.int64)
    for digit in range(8):
        colors |= ((index >> (3 * digit + np.arange(3))) & 1) << (7 - digit)
    return colors.astype(np.uint8)


@functools.lru_cache(maxsize=1)
def _voc_palette() -> np.ndarray:
    return voc_palette(256)


def displayed_size(source: str | Path | bytes | IO[bytes], max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(H, W) of an image after its EXIF orientation, from its header alone.

    Raises:
        InputError: as ``read_image``, but a damaged body is not noticed.
    """
    with opened(source, max_pixels) as (image, _):
        turned = _orientation(image) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)


def _turned(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; unreadable metadata is ignored."""
    orientation = _orientation(image)
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # metadata parsers raise many kinds of errors
        return None


def _draft(image: JpegImageFile, shrink: Callable[[int, int], int]) -> None:
    """Let a JPEG be decoded at a fraction of its size."""
    width, height = image.size
    factor = shrink(*((height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)))
    if factor > 1:
        image.draft(None, (max(width // factor, 1), max(height // factor, 1)))


def _to_rgb(image: Image.Image, name: str = 'the array', own: bool = True) -> Image.Image:
    """A new image of mode RGB without metadata; it may share the pixels of an ``own`` image."""
    if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
        result = Image.fromarray(stored_to_8_bit(np.asarray(image), name)).convert('RGB')
    elif image.has_transparency_data:
        result = _banded(image, on_white)
    else:
        result = image._new(image.im) if own and image.mode == 'RGB' else image.convert('RGB')
    result.info = {}
    return result


def on_white(image: Image.Image) -> Image.Image:
    """An image with transparency -> RGB; transparent pixels become white."""
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert('RGB')


def _banded(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """``convert`` an image to RGB in bands of rows, which bounds the memory of large images."""
    rows = max(1, _BAND // image.width)
    if image.height <= rows:
        return convert(image)
    result = Image.new('RGB', image.size)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        result.paste(convert(image.crop(box)), box)
    return result
