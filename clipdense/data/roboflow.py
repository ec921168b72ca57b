"""Where Roboflow's COCO exports, and ODinW, have their files.  Imports no framework."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from clipdense.utils.errors import InputError, nearest

ANNOTATIONS = ('annotations_without_background.json', '_annotations.coco.json')  # the first one there
PROMPTS = 'prompts.json'  # words around the class names, beside the splits
SPLITS = {'train': ('train',), 'val': ('mini_val', 'valid', 'val'), 'test': ('test',)}
_DEPTH = 3  # of data sets below a folder of data sets: NAME/VERSION
_LARGEST = 1000  # entries that are looked at in a folder; folders of images have more


def is_split(folder: Path) -> bool:
    """Whether a folder has images with their annotations."""
    return any((folder / name).is_file() for name in ANNOTATIONS)


def splits_of(root: Path) -> dict[str, str]:
    """The splits of an export, 'train', 'val' and 'test', and the folder of each."""
    found = {
        split: next((name for name in names if is_split(root / name)), None)
        for split, names in SPLITS.items()
    }
    return {split: name for split, name in found.items() if name is not None}


def exports_in(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """The exports below a folder, by name; what is inside of an export is not searched."""
    with os.scandir(folder) as entries:
        names = sorted(one.name for one in islice(entries, _LARGEST) if one.is_dir())
    for one in (folder / name for name in names if not name.startswith('.')):
        if splits_of(one):
            yield one
        elif depth > 1:
            yield from exports_in(one, depth - 1)


def split_folder(root: Path, split: str) -> Path:
    """The folder of a split.

    Raises:
        InputError: there is no such split.
    """
    for name in (split, *next((names for names in SPLITS.values() if split in names), ())):
        if is_split(root / name):
            return root / name
    if not root.is_dir():
        raise InputError(f'{root} is not a folder')
    there = sorted(one.name for one in root.iterdir() if one.is_dir() and is_split(one))
    if not there:
        raise InputError(
            f'{root} has no folder with {ANNOTATIONS[1]} beside its images: give the folder of an export'
        )
    raise InputError(f'{root} has no split {split!r}; it has {", ".join(there)}.{nearest(split, there)}')


def annotations_of(folder: Path, name: str | None = None) -> Path:
    """The JSON file of a split.

    Raises:
        InputError: no such file.
    """
    if name is None:
        return next(folder / one for one in ANNOTATIONS if (folder / one).is_file())
    if not (folder / name).is_file():
        there = sorted(one.name for one in folder.glob('*.json'))
        raise InputError(f'{folder} has no {name}; it has {", ".join(there)}.{nearest(name, there)}')
    return folder / name
