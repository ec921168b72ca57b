"""Paths and captions from rows of tables and from entries of COCO's files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from clipdense.data.faults import FaultBudget
from clipdense.data.tables import TableRow
from clipdense.utils.errors import InputError
from clipdense.utils.json_files import read_json

_LONGEST_PATH = 4096  # bytes, on Linux
_SURROGATE = re.compile('[\ud800-\udfff]')


def usable_captions(candidates: Iterable[object]) -> list[str]:
    """The candidates that are non-blank valid UTF-8 text, stripped."""
    return [
        caption.strip()
        for caption in candidates
        # A lone surrogate represents a byte that was not UTF-8.
        if isinstance(caption, str) and caption.strip() and not _SURROGATE.search(caption)
    ]


def row_pair(row: TableRow, image_key: str, caption_keys: Sequence[str]) -> tuple[str, list[str], str, str]:
    """Path and captions of a row; else '' and [], a cause and details for ``FaultBudget.lose``."""
    if row.fault:
        return '', [], 'row cannot be used', f'{row.where}: {row.fault}'
    name = row.values[image_key]
    values = [row.values[key] for key in caption_keys]
    given = [one for value in values for one in (value if isinstance(value, list) else [value])]
    captions = usable_captions(given)
    if not isinstance(name, str) or not name.strip():
        return '', [], _not_text(name) or 'no image', row.where
    if not is_file_name(name):
        return '', [], 'image is not the name of a file', f'{row.where}: {name!r:.80}'
    if not captions:
        return '', [], next(filter(None, map(_not_text, given)), 'no caption'), row.where
    return name.strip(), captions, '', ''


def grouped(images: Iterable[tuple[str, list[str]]]) -> Iterable[tuple[str, list[str]]]:
    """One entry for each path, with all its captions; './a.png' is 'a.png', in every Unicode form."""
    groups: dict[str, tuple[str, list[str]]] = {}
    for path, captions in images:
        key = unicodedata.normalize('NFC', os.path.normpath(path))
        groups.setdefault(key, (path, []))[1].extend(captions)
    return groups.values()


def coco_entries(path: Path, budget: FaultBudget) -> tuple[dict[int | str, str], dict[int | str, list[str]]]:
    """File name of each image id, usable captions of each image id; other entries are counted."""
    content = read_json(path)
    images, annotations = _coco_list(content, 'images', path), _coco_list(content, 'annotations', path)
    names: dict[int | str, str] = {}
    captions: dict[int | str, list[str]] = {}
    budget.saw(len(images) + len(annotations))
    for number, entry in enumerate(images):
        image_id, name = _coco_values(entry, 'id', 'file_name')
        if image_id is None or name is None or not is_file_name(name):
            budget.lose("'id' or 'file_name' is missing", f'{path}, images[{number}]')
        elif image_id in names:
            raise InputError(f'{path}, images[{number}]: duplicate id {image_id!r}; ids must be unique')
        else:
            names[image_id] = name
    for number, entry in enumerate(annotations):
        image_id, caption = _coco_values(entry, 'image_id', 'caption')
        where = f'{path}, annotations[{number}]'
        if image_id not in names:
            budget.lose('caption of an unknown image', f'{where}, image_id {image_id}')
        elif usable := usable_captions([caption]):
            captions.setdefault(image_id, []).extend(usable)
        else:
            budget.lose('no caption', f'{where}, image_id {image_id}')
    return names, captions


def resolve(name: str, root: str | Path | None, base: Path, where: str) -> str:
    """Path of an image; with a ``root``, it must stay inside."""
    if root is None:
        return os.path.join(base, name)
    relative = PurePosixPath(name.replace('\\', '/'))  # backslashes are separators on Windows
    if not relative.parts or relative.is_absolute() or '..' in relative.parts or ':' in relative.parts[0]:
        raise InputError(f'{where}: path {name!r} is outside {root}; paths must be relative and stay inside')
    return os.path.join(root, relative)


def is_file_name(name: str) -> bool:
    """False for URLs, null characters, and text that no file name can be."""
    try:
        data = os.fsencode(name)
    except UnicodeEncodeError:  # a lone surrogate that represents no byte
        return False
    return '://' not in name and b'\0' not in data and len(data) <= _LONGEST_PATH


def _not_text(value: object) -> str:
    """What is wrong with a value that is not absent."""
    if isinstance(value, str):
        return 'not UTF-8 text' if _SURROGATE.search(value) else ''
    return '' if value is None else f'{type(value).__name__} instead of text'


def _coco_list(content: Any, key: str, path: Path) -> list[Any]:
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f'{path} is not JSON in COCO format: {key!r} is missing, or not a list')
    return entries


def _coco_values(entry: object, id_key: str, text_key: str) -> tuple[Any, str | None]:
    """An id and a text of an entry; None if absent or of another type."""
    if not isinstance(entry, dict):
        return None, None
    image_id, text = entry.get(id_key), entry.get(text_key)
    is_id = isinstance(image_id, int | str) and not isinstance(image_id, bool)
    return image_id if is_id else None, text if isinstance(text, str) else None
