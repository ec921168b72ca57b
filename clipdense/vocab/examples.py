"""Classes that are given by example images, or regions of images, instead of names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clipdense.utils.errors import InputError

_KEYS = ('image', 'mask')


class Example(NamedTuple):
    """One example of a class.

    Args:
        image: path of the image.
        mask: path of a mask of its size, whose pixels that are not 0 show the class; None for the whole
            image.
    """

    image: str
    mask: str | None = None

    def below(self, folder: Path) -> Example:
        """The same, where paths that are not absolute are in a folder."""
        mask = None if self.mask is None else os.path.join(folder, self.mask)
        return Example(os.path.join(folder, self.image), mask)

    def relative_to(self, folder: Path) -> Example:
        """The inverse of ``below`` for files in the folder; absolute paths of others."""
        mask = None if self.mask is None else _relative(self.mask, folder)
        return Example(_relative(self.image, folder), mask)

    def entry(self) -> str | dict[str, str]:
        """As ``check_examples`` takes it, in JSON and YAML."""
        return self.image if self.mask is None else {'image': self.image, 'mask': self.mask}


def check_examples(values: Any) -> dict[str, tuple[Example, ...]]:
    """Class name -> its examples.

    Args:
        values: class name -> a list of paths of images, of pairs (image, mask), or of mappings with "image"
            and "mask".

    Raises:
        InputError: another type, a class without examples, or an example that is listed twice; the class is
            named.
    """
    if not isinstance(values, Mapping):
        raise InputError(
            f'examples must be a dict of class name -> list of images, got {type(values).__name__}'
        )
    return {name: _examples(given, name) for name, given in values.items()}


def _examples(given: Any, name: Any) -> tuple[Example, ...]:
    if isinstance(given, str | Path) or not isinstance(given, list | tuple):
        raise InputError(
            f'the examples of class {name!r} must be a list of images, or of pairs (image, mask), got '
            f'{given!r:.80}'
        )
    found = tuple(_example(one, f'example {number} of class {name!r}') for number, one in enumerate(given, 1))
    if not found:
        raise InputError(f'class {name!r} has no examples: give at least one image')
    for number, one in enumerate(found, 1):
        if one in found[: number - 1]:
            raise InputError(f'example {number} of class {name!r} is listed twice: {one.image}')
    return found


def _example(one: Any, what: str) -> Example:
    if isinstance(one, Mapping):
        if 'image' not in one or not {*one} <= {*_KEYS}:
            raise InputError(f'{what} must have "image", and may have "mask", got {dict(one)!r:.80}')
        one = tuple(one[key] for key in _KEYS if one.get(key) is not None)
    if isinstance(one, Example):
        one = tuple(path for path in one if path is not None)
    paths = (one,) if isinstance(one, str | Path) else one
    if not isinstance(paths, list | tuple) or len(paths) not in (1, 2):
        kind = type(one).__name__
        raise InputError(f'{what} must be the path of an image, or a pair (image, mask), got {kind}')
    for path in paths:
        if not isinstance(path, str | Path):
            raise InputError(
                f'{what} must be given by paths, got {type(path).__name__}: save the image to a file'
            )
        if not str(path).strip():
            raise InputError(f'{what} has an empty path')
    return Example(*map(str, paths))


def _relative(path: str, folder: Path) -> str:
    full, root = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else str(full)
