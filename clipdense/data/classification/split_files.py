"""Split files of CoOp: which images of a dataset are for training, validation and test.

``split_zhou_NAME.json`` has the three parts of a dataset, ``split_fewshot/shot_N-seed_S.pkl`` the images that
one run was trained and validated on.  They are read where they are; nothing in a pickle is run.

Source: KaiyangZhou/CoOp ``datasets/oxford_pets.py`` and Dassl's ``Datum``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from clipdense.data.image_lists import NamedFiles, first_of, relative_name
from clipdense.utils.errors import InputError
from clipdense.utils.files import regular_file
from clipdense.utils.json_files import read_json
from clipdense.vocab.names import check_name, first_repeated
from clipdense.weights.unpickle import Global, Inert, Machine, Refused

from .names import readable

PARTS = ('train', 'val', 'test')
SUFFIXES = ('.json', '.pkl', '.pickle')
_LARGEST_PICKLE = 256_000_000  # bytes
_FEW_SHOT = 'split_fewshot'  # folder of the pickles, next to the JSON file

Entry = tuple[str, int, str]  # path, label, class name


@dataclass(frozen=True)
class SplitFile:
    """The content of a split file.

    Args:
        path: of the file.
        root: folder of the images.
        class_names: by label.
        parts: images of 'train', 'val' and 'test', as far as there are: paths within ``root``, and labels.
    """

    path: Path
    root: Path
    class_names: tuple[str, ...]
    parts: Mapping[str, tuple[tuple[str, int], ...]]

    def images(self, part: str) -> tuple[tuple[str, int], ...]:
        """The images of a part.

        Raises:
            InputError: the file does not have it.
        """
        if not self.parts.get(part):
            hint = '; the split_zhou_*.json file of the dataset has one' if part == 'test' else ''
            raise InputError(f'{self.path} has no {part} images, only {" and ".join(self.parts)}{hint}')
        return self.parts[part]


def read_split_file(path: str | Path, images: str | Path | None = None) -> SplitFile:
    """Read a split file of CoOp.

    Args:
        path: a ``.json`` file, ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``, or a
            pickle of such parts.
        images: folder of the images; by default the folder of the file or one in it, whichever has the first
            image.  Absolute paths in pickles are paths of another machine: their ends are used.

    Raises:
        InputError: not such a file, images that are missing, or labels and class names that disagree.

    Warns:
        UserWarning: an image is in two parts.
    """
    path = regular_file(path, _LARGEST_PICKLE)
    parts = _read_json(path) if path.suffix.lower() == '.json' else _read_pickle(path)
    if not any(parts.values()):
        raise InputError(f'{path} lists no images')
    names = _class_names(path, [entry for part in parts.values() for entry in part])
    root, dropped = _find_images(path, next(entry[0] for part in parts.values() for entry in part), images)
    files = NamedFiles(root)
    listed: dict[str, tuple[tuple[str, int], ...]] = {}
    for part, entries in parts.items():
        tails = [_tail(name, dropped) for name, _, _ in entries]
        found = files.find_all(tails, f'of {part!r} in {path.name}')
        relative = [file.relative_to(root).as_posix() for file in found]
        listed[part] = tuple(zip(relative, (label for _, label, _ in entries), strict=True))
    _check_overlap(path, listed)
    return SplitFile(path, root, names, listed)


def _read_json(path: Path) -> dict[str, list[Entry]]:
    content = read_json(path)
    if not isinstance(content, dict) or not set(PARTS) & set(content):
        raise InputError(f"{path} is not a split file: it must be an object with 'train', 'val' and 'test'")
    parts: dict[str, list[Entry]] = {}
    for part in PARTS:
        if part in content and not isinstance(content[part], list):
            raise InputError(f'{path}: {part!r} must be a list of [path, label, class name]')
        if content.get(part):
            parts[part] = [_entry(path, part, at, value) for at, value in enumerate(content[part])]
    return parts


class _Datums(Machine):
    """Reads the objects of Dassl that have the path and the label of an image, as plain data."""

    def find_class(self, module: str, name: str) -> Any:
        if name == 'Datum':
            return Global(name, lambda *arguments: Inert(name, arguments), inert=True)
        return super().find_class(module, name)


def _read_pickle(path: Path) -> dict[str, list[Entry]]:
    advice = 'use the split_zhou_*.json file of the dataset with shots and seed'
    try:
        with open(path, 'rb') as file:
            content = _Datums(file).load()
    except Refused as error:
        raise InputError(f'{path} contains {error}, which a split file does not need; {advice}') from error
    except Exception as error:
        raise InputError(f'{path} is damaged or not a pickle ({type(error).__name__}); {advice}') from error
    if not isinstance(content, dict) or not set(PARTS) & set(content):
        raise InputError(f"{path} is not a split file: it must be a dict with 'train' and 'val'; {advice}")
    parts: dict[str, list[Entry]] = {}
    for part in PARTS:
        items = content.get(part) or []
        if not isinstance(items, list):
            raise InputError(f'{path}: {part!r} must be a list of images; {advice}')
        for at, item in enumerate(items):
            state = item.state if isinstance(item, Inert) and isinstance(item.state, dict) else {}
            values = [state.get(name) for name in ('_impath', '_label', '_classname')]
            parts.setdefault(part, []).append(_entry(path, part, at, values))
    return parts


def _entry(path: Path, part: str, at: int, value: Any) -> Entry:
    """A checked ``[path, label, class name]``."""
    where = f'{path}: {part}[{at}]'
    if not isinstance(value, list) or len(value) != 3:
        raise InputError(f'{where} must be [path, label, class name], got {value!r:.80}')
    image, label, name = value
    if not isinstance(image, str) or not image.strip():
        raise InputError(f'{where}: the path must be text, got {image!r:.80}')
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        raise InputError(f'{where}: the label must be a whole number of at least 0, got {label!r:.80}')
    return image, label, readable(check_name(name, f'class name of {where}'))


def _class_names(path: Path, entries: Iterable[Entry]) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for _, label, name in entries:
        if names.setdefault(label, name) != name:
            raise InputError(f'{path}: label {label} has two class names, {names[label]!r} and {name!r}')
    missing = sorted(set(range(max(names) + 1)) - set(names))[:5]
    if missing:
        raise InputError(f'{path}: the labels must be 0 to K - 1, but {missing} have no image')
    found = tuple(names[label] for label in range(len(names)))
    repeated = first_repeated(found)
    if repeated:
        raise InputError(f'{path}: two labels have the same class name: {", ".join(repeated)}')
    return found


def _find_images(path: Path, first: str, given: str | Path | None) -> tuple[Path, int]:
    """The folder of the images, and the number of leading folders that its paths have too many."""
    start = path.absolute().parent
    start = start.parent if start.name == _FEW_SHOT else start
    if given is not None:
        folders = [Path(given)]
    else:
        folders = [start, *sorted(entry for entry in start.iterdir() if entry.is_dir())]
    length = len(PurePosixPath(first.replace('\\', '/')).parts)
    for dropped in range(length):
        for folder in folders:
            tail = _tail(first, dropped)
            if folder.is_dir() and NamedFiles(folder).find(tail) is not None:
                return folder, dropped
    where = f'{given}' if given is not None else f'{start} and its folders'
    raise InputError(f'{path}: the image {first!r} is not in {where}; pass images=FOLDER')


def _tail(name: str, dropped: int) -> str:
    """The last folders and the file of a path; never one outside a folder."""
    path = PurePosixPath(name.replace('\\', '/'))
    parts = [part for part in path.parts[dropped:] if part != '/' and not part.endswith(':')]  # D:
    return relative_name('/'.join(parts), Path('the folder of the images'))


def _check_overlap(path: Path, parts: Mapping[str, Iterable[tuple[str, int]]]) -> None:
    seen: dict[str, str] = {}
    twice: list[str] = []
    for part, images in parts.items():
        for name, _ in images:
            if seen.setdefault(name, part) != part:
                twice.append(name)
    if twice:
        warnings.warn(
            f'{path}: {len(twice)} images are in two parts, which makes results too good: {first_of(twice)}',
            stacklevel=3,
        )
