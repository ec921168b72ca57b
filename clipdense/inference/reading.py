"""Read the images of a call or a stream."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from clipdense.utils.errors import InputError, item_error
from clipdense.utils.image_files import list_images
from clipdense.utils.image_io import read_image
from clipdense.utils.overlap import overlapped
from clipdense.utils.video import VideoFrames, is_video

from .encoded import Encoded

ImageSource = Any  # a path, a PIL image, an array (H, W, 3), or what ``Predictor.encode`` returned
OnError = Literal['raise', 'skip'] | Callable[[int, InputError], None]


def expanded(images: Any, max_pixels: int) -> Any:
    """Folders and glob patterns as the list of their images, video files as their frames; others unchanged.

    Raises:
        InputError: a folder or pattern without images, or a file that is no video.
    """
    if not isinstance(images, str | Path):
        return images
    if is_video(images):
        return VideoFrames(images, max_pixels)
    path = str(images)
    if os.path.isdir(path) or (glob.has_magic(path) and not os.path.lexists(path)):
        return list_images(path)
    return images


def check_call(images: object, batch_size: object, on_error: object, max_pixels: object) -> None:
    """Check the arguments of ``stream``.

    Raises:
        InputError: one image instead of several, or a setting of another type or out of range.
    """
    if isinstance(images, str | Path):
        raise InputError(f'stream takes a list or iterator of images, got one path: [{str(images)!r}]')
    one = isinstance(images, Image.Image | bytes | bytearray) or hasattr(images, 'read')
    if one or getattr(images, 'ndim', 1) in (2, 3) or not isinstance(images, Iterable):
        raise InputError(
            f'stream takes a list or iterator of images, got {type(images).__name__}: put one image in a '
            'list, and write list(images) for an array of several gray ones'
        )
    batch_size = 1 if isinstance(batch_size, str) and batch_size == 'auto' else batch_size
    for name, value in (('batch_size', batch_size), ('max_pixels', max_pixels)):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise InputError(f'{name} must be a whole number of at least 1, got {value!r}')
        if value < 1:
            raise InputError(f'{name} must be at least 1, got {value}')
    if not callable(on_error) and not (isinstance(on_error, str) and on_error in ('raise', 'skip')):
        raise InputError(f"on_error must be 'raise', 'skip' or a function, got {on_error!r}")


def checked_images(
    images: Any, batch_size: int | Literal['auto'], on_error: OnError, max_pixels: int
) -> Iterable[ImageSource]:
    """The images of a stream; paths of folders, patterns and videos stand for their images.

    Raises:
        InputError: as ``check_call`` and ``expanded``.
    """
    check_call([], batch_size, on_error, max_pixels)
    images = expanded(images, max_pixels)
    check_call(images, batch_size, on_error, max_pixels)
    return images


class Input(NamedTuple):
    """An image that was read."""

    number: int  # position in the stream
    name: str
    image: Image.Image
    encoded: Encoded | None = None


class Failed(NamedTuple):
    """An image that could not be read."""

    number: int
    name: str
    error: Exception


def read_batch(
    batch: list[tuple[int, ImageSource]], max_pixels: int, check: Callable[[Encoded], None]
) -> list[Input | Failed]:
    """Read the images of a batch; errors are returned, since this may be another thread.

    Args:
        batch: positions and images.
        max_pixels: see ``read_image``.
        check: refuses images that were encoded otherwise.
    """
    found: list[Input | Failed] = []
    for index, source in batch:
        name = str(source) if isinstance(source, str | Path) else f'image {index}'
        try:
            if is_video(source) or (isinstance(source, str | Path) and os.path.isdir(source)):
                kind = 'video' if is_video(source) else 'folder'
                other = '; of the commands, segment takes videos' if kind == 'video' else ''
                raise InputError(
                    f'{source} is a {kind}, not a regular file of an image: pass it to stream{other}'
                )
            if isinstance(source, Encoded):
                check(source)
                found.append(Input(index, name, source.image, source))
            else:
                found.append(Input(index, name, read_image(source, max_pixels)))
        except Exception as error:
            found.append(Failed(index, name, error))
    return found


def read_batches(
    images: Iterable[ImageSource], size: int, max_pixels: int, check: Callable[[Encoded], None]
) -> Iterator[list[Input | Failed]]:
    """Read images in batches; of a list, the next batch in a thread while the caller computes.

    Args:
        images: see ``checked_images``.
        size: images of a batch.
        max_pixels, check: see ``read_batch``.
    """
    numbered = iter(enumerate(images))
    batches = iter(lambda: list(islice(numbered, size)), [])
    read = partial(read_batch, max_pixels=max_pixels, check=check)
    return overlapped(read, batches) if isinstance(images, Sequence) else map(read, batches)


def without_failed(batch: list[Input | Failed], on_error: OnError) -> list[Input]:
    """The images of a batch that were read; the others are reported, or the first one is raised."""
    for one in batch:
        if isinstance(one, Failed):
            if on_error == 'raise':
                raise one.error
            report(one.error, one.number, one.name, on_error)
    return [one for one in batch if isinstance(one, Input)]


def report(error: Exception, index: int, name: str, on_error: OnError) -> None:
    if callable(on_error):
        on_error(index, item_error(error, name))
