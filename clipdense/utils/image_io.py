"""Read and write images and masks with Pillow.  (H, W): pixels as displayed.

Rules for all images: EXIF orientation is applied; transparent pixels become white; the first frame of an
animation is used; 16-bit values are divided by 257, not clipped; color profiles are
ignored.
"""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from .errors import InputError
from .files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

    Source = str | Path | bytes | IO[bytes] | Image.Image | np.ndarray | Tensor

MAX_PIXELS = 178_956_970  # Pillow's own limit
_ORIENTATION = 0x0112  # EXIF tag
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
_limit_lock = threading.Lock()


def read_image(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read any image as 8-bit RGB.

    Args:
        source: a path, encoded bytes, a binary file, a Pillow image, an array (H, W) or (H, W, 1 | 3 | 4), or
            a tensor (1 | 3 | 4, H, W).  Float values may be 0 ... 1, 0 ... 255 or 0 ... 65535, depending on
            the maximum; others are scaled from their minimum to their maximum.
        max_pixels: larger images raise an error before they are decoded.

    Returns:
        An image of mode RGB without metadata, in displayed orientation.

    Raises:
        InputError: no file, not an image, damaged or truncated, too large, or of an unknown layout.
    """
    if hasattr(source, 'cpu'):  # a tensor; does not need to import torch
        source = _channels_last(source)
    if isinstance(source, np.ndarray):
        image = _from_array(source)
        _check_pixels(image.size, max_pixels, 'the array')
    else:
        image, name = _open(source, max_pixels)
        _load(image, name)
        image = _turned(image)
    try:
        result = _to_rgb(image)
    except (ValueError, OSError) as error:
        raise InputError(f'cannot convert an image of mode {image.mode} to RGB; save it as RGB') from error
    result = result.copy() if result is source or isinstance(result, ImageFile.ImageFile) else result
    result.info = {}
    return result


def read_mask(path: str | Path | bytes | IO[bytes], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read the class indices of a label mask.

    Palette files give indices, not colors; gray files of 1 to 16 bits give their values.

    Returns:
        (H, W) uint8, or int32 for files of more than 8 bits.

    Raises:
        InputError: as ``read_image``; also for color images and for JPEG, which alters labels.
    """
    image, name = _open(path, max_pixels)
    if image.format == 'JPEG':
        raise InputError(f'{name} is a JPEG, whose lossy compression changes labels; masks must be PNG')
    tiles = getattr(image, 'tile', None)
    raw_mode = str(tiles[0].args) if tiles else ''
    _load(image, name)
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


def _open(source: Any, max_pixels: int) -> tuple[Image.Image, str]:
    """An image with its header read and its size checked, and a name for messages."""
    if isinstance(source, Image.Image):
        _check_pixels(source.size, max_pixels, 'the image')
        return source, 'the image'
    data, name = _read_bytes(source)
    try:
        with _no_pillow_limit():
            image = Image.open(io.BytesIO(data))
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise InputError(_not_an_image(data, name, error)) from error
    _check_pixels(image.size, max_pixels, name)
    return image, name


def _read_bytes(source: Any) -> tuple[bytes, str]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), 'the image'
    if hasattr(source, 'read'):
        return source.read(), str(getattr(source, 'name', 'the image'))
    if not isinstance(source, (str, Path)):
        raise InputError(
            f'an image must be a path, bytes, file, PIL image, array or tensor, got {type(source).__name__}'
        )
    if str(source).startswith(('http://', 'https://')):
        raise InputError(f'{source} is a URL; download the image and pass the file')
    try:
        return Path(source).read_bytes(), str(source)
    except FileNotFoundError as error:
        raise InputError(f'the file {source} does not exist') from error
    except (OSError, ValueError) as error:
        folder = isinstance(error, IsADirectoryError)
        reason = 'is a folder, not an image' if folder else f'cannot be read: {error}'
        raise InputError(f'{source} {reason}') from error


def _not_an_image(data: bytes, name: str, error: Exception) -> str:
    if not data:
        return f'{name} is empty (0 bytes)'
    if data[:256].lstrip().lower().startswith((b'<!doctype', b'<html', b'<?xml')):
        return f'{name} is a web page or XML, not an image; the download may have failed'
    if isinstance(error, UnidentifiedImageError):
        return f'{name} is not an image in a supported format ({len(data)} bytes)'
    return f'{name} is damaged: {error}'


def _load(image: Image.Image, name: str) -> None:
    try:
        image.load()
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise InputError(f'{name} is damaged or truncated: {error}') from error


def _check_pixels(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise InputError(
            f'{name} has {width} x {height} pixels, more than the limit of {max_pixels}; '
            'resize it, or raise max_pixels if you trust the file'
        )
    if not width or not height:
        raise InputError(f'{name} has no pixels ({width} x {height})')


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Disable Pillow's own limit while a header is read; the caller checks the size."""
    with _limit_lock:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _turned(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; unreadable metadata is ignored."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # metadata parsers raise many kinds of errors
        return image
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert('RGB')
    if image.has_transparency_data:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert('RGB')
    return image if image.mode == 'RGB' else image.convert('RGB')


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scale numbers to 0 ... 255 according to their range."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    floating = values.dtype.kind == 'f'
    values = np.nan_to_num(values, nan=0, posinf=0, neginf=0) if floating else values
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        offset, scale = low, 255 / max(high - low, 1e-12)
    elif floating and high <= 255:
        offset, scale = 0.0, 255.0 if high <= 1 else 1.0
    else:
        offset, scale = 0.0, 1 / 257
    return ((values - offset) * scale + 0.5).astype(np.uint8)


def _from_array(array: np.ndarray) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        hint = ' (channels come last)' if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ''
        raise InputError(
            f'an image array must have shape (H, W) or (H, W, 1 | 3 | 4), got {array.shape}{hint}'
        )
    if array.dtype.kind not in 'biuf':
        raise InputError(f'an image array must contain numbers, got dtype {array.dtype}')
    gray = array.ndim == 3 and channels == 1
    return Image.fromarray(np.ascontiguousarray(_to_8_bit(array[..., 0] if gray else array)))


def _channels_last(tensor: Any) -> np.ndarray:
    if tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4):
        raise InputError(f'an image tensor must have shape (1 | 3 | 4, H, W), got {tuple(tensor.shape)}')
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.dtype.is_floating_point else tensor).numpy()
    return array.transpose(1, 2, 0) if array.ndim == 3 else array
