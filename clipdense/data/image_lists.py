"""Lists of image names, and the files that they name: one rule for all datasets.

A line of a list is a name: spaces inside belong to it, those around it do not.  A name is relative to the
folder of the images, with or without the ending of the file; capitals count, the form of accents does not.
In the lists that PASCAL VOC has for each class, a flag of -1, 0 or 1 follows the name.
"""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import regular_file
from clipdense.utils.image_files import IMAGE_SUFFIXES

_LARGEST_LIST = 256_000_000  # bytes
_NAMED = 10  # missing files that a message lists
_LINE_ENDS = re.compile(r'\r\n|\r|\n')  # others, such as form feeds, may be part of a name
_FLAGGED = re.compile(r'(?P<name>\S.*?)\s+(?:-1|\+?1|0)')


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file without the spaces around them; blank lines are left out.

    Raises:
        InputError: no such file, not a regular file, or not UTF-8.
    """
    return [line for _, line in numbered_lines(path)]


def numbered_lines(path: str | Path) -> list[tuple[int, str]]:
    """``read_lines`` with the number of each line, from 1."""
    path = regular_file(path, _LARGEST_LIST)
    try:
        text = path.read_bytes().decode('utf-8-sig')
    except OSError as error:
        raise InputError(f'cannot read the list {path}: {error.strerror or error}') from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b'\n') + 1
        raise InputError(f'{path} is not UTF-8: line {line} has an invalid byte; save it as UTF-8') from error
    lines = enumerate(_LINE_ENDS.split(text), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_names(path: str | Path) -> list[str]:
    """The names of a list, in its order; repeated ones once.

    Raises:
        InputError: as ``read_lines``; or an empty list.

    Warns:
        UserWarning: names are repeated.
    """
    lines = read_lines(path)
    if not lines:
        raise InputError(f'{path} is empty; it must list image names, one a line')
    names = list(dict.fromkeys(lines))
    if len(names) < len(lines):
        first = _repeated(lines)
        warnings.warn(
            f'{path} has {len(lines)} lines and {len(names)} different names: repeated ones, such as '
            f'{first!r}, are read once',
            stacklevel=2,
        )
    return names


def read_split(root: Path, lists: str, split: str) -> list[str]:
    """The names in ``root/lists/split.txt``.

    Raises:
        InputError: no such list; or as ``read_names``.
    """
    folder = root / lists
    path = folder / f'{split}.txt'
    if not path.exists():
        known = sorted(file.stem for file in folder.glob('*.txt'))
        hint = f'{nearest(split, known)} Splits: {", ".join(known)}' if known else f' {folder} has no lists'
        raise InputError(f'{root} has no split {split!r}.{hint}')
    return read_names(path)


class NamedFiles:
    """The files of a folder by name.  Each folder is listed once, when it is first needed.

    Args:
        folder: of the files.
        suffixes: endings of file names, in lower case: '.png', or '_labelIds.png'.

    Raises:
        InputError: no such folder.
    """

    def __init__(self, folder: str | Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> None:
        self.folder, self._suffixes = Path(folder), tuple(sorted(suffix.lower() for suffix in suffixes))
        if not self.folder.is_dir():
            raise InputError(f'the folder {self.folder} does not exist')
        self._listed: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path | None:
        """The file of a name with or without ending; None if there is none.

        Raises:
            InputError: several files have this name, or the name points outside the folder.
        """
        checked = relative_name(name, self.folder)
        found = self._find(checked)
        if not found and '\\' in checked:  # a list from Windows
            found = self._find(relative_name(checked.replace('\\', '/'), self.folder))
        if len(found) > 1:
            listed = ', '.join(sorted(file.name for file in found)[:4])
            raise InputError(
                f'{name!r} may be any of {listed} in {found[0].parent}; name the file with its ending, or '
                'remove the others'
            )
        return found[0] if found else None

    def find_all(self, names: Sequence[str], listed: str) -> list[Path]:
        """The file of each name.

        Args:
            names: of the files.
            listed: where they are listed, for messages.

        Raises:
            InputError: files are missing (the first ten are named); or as ``find``.
        """
        found = [self.find(name) for name in names]
        missing = [name for name, file in zip(names, found, strict=True) if file is None]
        if missing:
            raise InputError(
                f'{len(missing)} of {len(names)} images {listed} are not in {self.folder}: '
                f'{first_of(missing)}{self.hint(missing[0])}'
            )
        return [file for file in found if file is not None]

    def name_of(self, file: Path) -> str:
        """The name of a found file: relative to the folder, with ``/``, without its ending."""
        stem = self._stem(file.name)
        return (file.relative_to(self.folder).parent / str(stem)).as_posix()

    def stems(self) -> list[str]:
        """Names without ending of all files in the folder and below, with ``/``, sorted."""
        found = set()
        for parent, folders, files in os.walk(self.folder):
            folders.sort()
            start = Path(parent).relative_to(self.folder)
            found |= {(start / stem).as_posix() for stem in map(self._stem, files) if stem is not None}
        return sorted(found)

    def _find(self, name: str) -> list[Path]:
        parent, _, last = name.rpartition('/')
        files = self._files(parent)
        folder = self.folder / parent
        exact = files.get(last) or files.get('\0' + _composed(last)) or []
        return [folder / file for file in exact]

    def _files(self, parent: str) -> dict[str, list[str]]:
        """File names of a folder by name and by stem; those in another form of accents after a null byte."""
        if parent not in self._listed:
            table: dict[str, list[str]] = {}
            try:
                with os.scandir(self.folder / parent) as entries:
                    files = sorted(entry.name for entry in entries if entry.is_file())
            except OSError:
                files = []
            for file in files:
                stem = self._stem(file)
                for key in {file, stem} if stem is not None else ():
                    table.setdefault(str(key), []).append(file)
                    table.setdefault('\0' + _composed(str(key)), []).append(file)
            self._listed[parent] = table
        return self._listed[parent]

    def _stem(self, file: str) -> str | None:
        """The name without its ending; None for files with another ending."""
        lower = file.lower()
        suffix = max((one for one in self._suffixes if lower.endswith(one)), key=len, default=None)
        return None if suffix is None or len(suffix) == len(file) else file[: -len(suffix)]

    def hint(self, name: str) -> str:
        """Why a file may not have been found: another ending, or a similar name."""
        parent, _, last = name.replace('\\', '/').rpartition('/')
        if parent and self._files('').get(last):
            return f'; {last} is in {self.folder} itself'
        try:
            there = sorted(os.listdir(self.folder / parent))
        except OSError:
            return ''
        other = next((file for file in there if Path(file).stem == last), None)
        if other is not None:
            return f'; {other} has another ending than {" ".join(self._suffixes)}'
        similar = nearest(last, [Path(file).stem for file in there])
        return f'.{similar}' if similar else ''


def relative_name(name: str, folder: Path) -> str:
    """A name that stays inside its folder, without ``./``.

    Raises:
        InputError: an absolute name, or one with ``..`` or a null byte.
    """
    path = PurePosixPath(name)
    absolute = path.is_absolute() or PureWindowsPath(name).drive
    if absolute or '..' in path.parts or '..' in PureWindowsPath(name).parts or '\0' in name:
        raise InputError(f'image {name!r} is outside {folder}; names must be relative to this folder')
    return str(path)


def without_flags(names: Sequence[str], files: NamedFiles, path: str | Path) -> list[str]:
    """Names of a list without the flags that PASCAL VOC's lists of one class have.

    A name with a file is kept as it is: 'dog 1' is an image if there is ``dog 1.jpg``.

    Args:
        names: of the list.
        files: the files that they name.
        path: of the list, for messages.

    Raises:
        InputError: an image is listed twice.

    Warns:
        UserWarning: there were flags.
    """
    plain, flagged = [], 0
    for name in names:
        match = _FLAGGED.fullmatch(name)
        if match and files.find(name) is None and files.find(match['name']) is not None:
            name, flagged = match['name'], flagged + 1
        plain.append(name)
    if flagged:
        warnings.warn(
            f'{path} is a list of one class: its {flagged} flags (-1, 0, 1) are not used, and all its images '
            'are read',
            stacklevel=2,
        )
    if len(set(plain)) < len(plain):
        raise InputError(f'{path} lists the image {_repeated(plain)!r} twice')
    return plain


def first_of(names: Sequence[str]) -> str:
    """The first ten names, for messages."""
    return ', '.join(names[:_NAMED]) + (', ...' if len(names) > _NAMED else '')


def _repeated(names: Sequence[str]) -> str:
    """The first name that is repeated."""
    counts = Counter(names)
    return next(name for name in names if counts[name] > 1)


def _composed(name: str) -> str:
    return unicodedata.normalize('NFC', name)
