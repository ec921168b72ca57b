"""Images that visitors send, and the names of the files that they get back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from clipdense.utils.errors import InputError, printable
from clipdense.utils.image_io import read_image

_NAME = 40  # characters of a file name


@dataclass(frozen=True)
class Limits:
    """What a visitor may upload.

    Args:
        pixels: of an image, at most.
        megabytes: of a file, at most (1,000,000 bytes each).

    Raises:
        InputError: a limit below 1.
    """

    pixels: int = 50_000_000
    megabytes: int = 32

    def __post_init__(self) -> None:
        for name, value in (('pixels', self.pixels), ('megabytes', self.megabytes)):
            if value < 1:
                raise InputError(f'the limit of {name} must be at least 1, got {value}')


def read_upload(path: str | Path, limits: Limits) -> Image.Image:
    """Read an uploaded file; messages name it as the visitor does, without the folder on the server.

    Raises:
        InputError: not an image, damaged, or above a limit.
    """
    path = Path(path)
    name = printable(path.name)
    try:
        size = path.stat().st_size
        if size > limits.megabytes * 1_000_000:
            raise InputError(
                f'{name} has {size / 1e6:.0f} MB, more than the limit of {limits.megabytes} MB: '
                'send a smaller file'
            )
        data = path.read_bytes()
    except OSError as error:  # deleted since, as old uploads are
        raise InputError(f'{name} is no longer on the server: upload it again') from error
    try:
        return read_image(data, limits.pixels)
    except InputError as error:
        raise InputError(f'{name}: {error}') from error


def file_stem(name: str) -> str:
    """The name of a file without suffix, with only characters that every system takes.

    Example:
        >>> file_stem('../my cat?.jpg')
        'my_cat'
    """
    return re.sub(r'[^A-Za-z0-9-]+', '_', Path(name).stem).strip('_')[:_NAME] or 'image'
