"""Lists of few-shot episodes: image and class, one pair a line; or JSON of images by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipdense.data.image_lists import numbered_lines, relative_name
from clipdense.utils.errors import InputError
from clipdense.utils.json_files import read_json

LARGEST_JSON = 2_000_000_000  # bytes


def read_pairs(path: Path, shown: Sequence[int]) -> list[tuple[str, int]]:
    """Names and class indices of lines such as ``2007_000033__05``, whose classes count from 1.

    Raises:
        InputError: no list, an empty one, or a line that is not of that form or of another class.
    """
    pairs = []
    for number, line in numbered_lines(path):
        name, mark, label = line.rpartition('__')
        if not mark or not label.isdecimal() or int(label) - 1 not in shown:
            raise InputError(
                f'{path}, line {number}: expected IMAGE__CLASS with a class of this fold, got {line!r}'
            )
        pairs.append((name, int(label) - 1))
    if not pairs:
        raise InputError(f'the list {path} is empty')
    return pairs


def read_class_lists(path: Path, class_ids: Sequence[int], root: Path) -> dict[int, list[str]]:
    """Paths of images below ``root`` by class index.

    Raises:
        InputError: not JSON of that form, classes without images, or images outside ``root``.
    """
    content = read_json(path, LARGEST_JSON)
    try:
        found = {int(key): [_name(one) for one in _list(names)] for key, names in content.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f'{path} is not a JSON object of class index -> list of images: {error}') from error
    empty = [at for at in class_ids if not found.get(at)]
    if empty:
        raise InputError(f'{path} has no images for the classes {empty[:10]}')
    for at in class_ids:
        for name in found[at]:
            relative_name(name, root)
    return found


def _list(value: Any) -> list:
    if not isinstance(value, list):
        raise TypeError(f'{value!r:.40} is not a list')
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f'{value!r:.40} is not a name')
    return value
