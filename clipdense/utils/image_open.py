"""Open image files: regular files of known formats, within limits of size.

Only the formats of ``FORMATS`` are decoded, whatever the name of the file: some decoders of Pillow start
other programs (EPS) or read formats that are no images of this kind (PSD, WMF, FITS, HDF5).
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from PIL import Image, UnidentifiedImageError

from .errors import InputError
from .files import regular_file

MAX_PIXELS = 178_956_970  # Pillow's own limit
FORMATS = ('PNG', 'JPEG', 'GIF', 'BMP', 'PPM', 'WEBP', 'TIFF', 'AVIF', 'JPEG2000', 'TGA')
_COMMON = FORMATS[:5]  # Pillow loads these decoders first, and the others only if needed
_BYTES_PER_PIXEL = 8  # of a file, at most: 16-bit RGBA without compression
_METADATA = 64 << 20  # bytes of a file beside its pixels, at most
_FOREIGN = {  # how files of other formats begin
    b'%!PS': 'a PostScript (EPS) file',
    b'%PDF': 'a PDF file',
    b'8BPS': 'a Photoshop (PSD) file',
    b'\xd7\xcd\xc6\x9a': 'a WMF file',
    b'SIMPLE  =': 'a FITS file',
    b'\x89HDF': 'an HDF5 file',
    b'\0\0\1\0': 'an icon (ICO) file',
    b'PK\3\4': 'a zip archive',
    b'\x1f\x8b': 'a gzip file',
    b'\x93NUMPY': 'a NumPy file (load it and pass the array)',
}
_limit_lock = threading.Lock()


@contextmanager
def opened(source: Any, max_pixels: int) -> Iterator[tuple[Image.Image, str]]:
    """An image with its header read and its size checked, and a name for messages.

    Args:
        source: a path, encoded bytes, a binary file, or a Pillow image.
        max_pixels: larger images raise an error.

    Raises:
        InputError: no regular file, not an image in one of ``FORMATS``, or too large.
    """
    if isinstance(source, Image.Image):
        check_pixels(source.size, max_pixels, 'the image')
        yield source, 'the image'
        return
    with _binary_file(source, _METADATA + _BYTES_PER_PIXEL * max_pixels) as (file, name):
        try:
            with _no_pillow_limit():
                image = _identified(file)
        except Exception as error:  # decoders raise many kinds of errors on damaged files
            if isinstance(error, OSError) and error.errno:  # of the disk, not of a decoder
                raise InputError(f'{name} cannot be read: {error.strerror}') from error
            raise InputError(_not_an_image(file, name, error)) from error
        check_pixels(image.size, max_pixels, name)
        yield image, name


def _identified(file: IO[bytes]) -> Image.Image:
    """Open a file of one of ``FORMATS``; some builds of Pillow lack a few of them."""
    try:
        return Image.open(file, formats=_COMMON)
    except UnidentifiedImageError:
        Image.init()
        return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


@contextmanager
def _binary_file(source: Any, most: int) -> Iterator[tuple[IO[bytes], str]]:
    """A source of encoded bytes as a file that can be rewound, and a name for messages."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source), 'the image'
    elif hasattr(source, 'read'):
        name = str(getattr(source, 'name', 'the image'))
        yield io.BytesIO(_read_stream(source, most, name)), name
    elif not isinstance(source, (str, Path)):
        raise InputError(
            f'an image must be a path, bytes, file, PIL image, array or tensor, got {type(source).__name__}'
            f'{_conversion_hint(source)}'
        )
    elif str(source).startswith(('http://', 'https://')):
        raise InputError(f'{source} is a URL; download the image and pass the file')
    else:
        path = regular_file(source)
        if path.stat().st_size > most:
            raise InputError(_too_many_bytes(str(source), most))
        with _readable(path) as file:
            yield file, str(source)


def _readable(path: Path) -> IO[bytes]:
    try:
        return path.open('rb')
    except OSError as error:
        raise InputError(f'{path} cannot be read: {error.strerror or error}') from error


def _read_stream(source: Any, most: int, name: str) -> bytes:
    """All bytes of a binary file."""
    data = bytearray()
    try:
        while part := source.read(most + 1 - len(data)):
            data += part
            if len(data) > most:
                raise InputError(_too_many_bytes(name, most))
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'{name} cannot be read as a binary file: {error}') from error
    return bytes(data)


def _too_many_bytes(name: str, most: int) -> str:
    return (
        f'{name} has more than {most} bytes, the limit of a file; convert it, or raise max_pixels '
        '(--max-pixels) if you trust the file'
    )


def _conversion_hint(source: Any) -> str:
    if isinstance(source, (list, tuple)):
        return ': pass an array, as in numpy.array(values, numpy.uint8)'
    return ': pass numpy.asarray(image)' if hasattr(source, '__array__') else ''


def _not_an_image(file: IO[bytes], name: str, error: Exception) -> str:
    file.seek(0)
    start, size = file.read(256), file.seek(0, os.SEEK_END)
    if not size:
        return f'{name} is empty (0 bytes)'
    if start.lstrip().lower().startswith((b'<!doctype', b'<html', b'<?xml', b'<svg')):
        return f'{name} is a web page or XML, not an image; the download may have failed'
    for beginning, kind in _FOREIGN.items():
        if start.startswith(beginning):
            return f'{name} is {kind}, not an image in a supported format; save it as PNG or JPEG'
    if start[4:8] == b'ftyp' and start[8:11] in (b'hei', b'hev', b'mif'):
        return f'{name} is a HEIC file, not an image in a supported format; save it as PNG or JPEG'
    if isinstance(error, UnidentifiedImageError):
        return f'{name} is not an image in a supported format ({size} bytes)'
    return f'{name} is damaged: {error}'


def decode(image: Image.Image, name: str) -> None:
    """Read the pixels of an opened image.

    Raises:
        InputError: damaged or truncated, or larger than the memory.
    """
    try:
        image.load()
    except MemoryError as error:
        raise InputError(no_memory(image, name)) from error
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise InputError(f'{name} is damaged or truncated: {error}') from error


def no_memory(image: Image.Image, name: str) -> str:
    """The message for an image that is larger than the memory."""
    return f'{name}: not enough memory for {image.width} x {image.height} pixels; resize the image'


def check_pixels(size: tuple[int, int], max_pixels: int, name: str) -> None:
    """Check the size (width, height) of an image.

    Raises:
        InputError: no pixels, or more than ``max_pixels``.
    """
    width, height = size
    if width * height > max_pixels:
        raise InputError(
            f'{name} has {width} x {height} pixels, more than the limit of {max_pixels}; '
            'resize it, or raise max_pixels (--max-pixels) if you trust the file'
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
