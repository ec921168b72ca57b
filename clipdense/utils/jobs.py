"""Long jobs that write to one folder as N independent parts, each of which can be interrupted.

A part takes every N-th unit of work (a shard, a block of images), so that parts need not know each other: any
scheduler can run them, on machines that share the folder.  ``FOLDER/.job`` has the settings of the job and a
file for each part that is done; the part that ends last does what is left to be done with all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import InputError, InUse
from .files import atomic_write, check_output_folder, locked, writable_folder
from .json_files import read_json
from .wording import counted

Item = TypeVar('Item')

STATE = '.job'
_FORMAT = 'clipdense job 1'
_LISTED = 5  # missing parts in a message


@dataclass(frozen=True)
class Part:
    """Part ``number`` of ``count``, from 1.

    Raises:
        InputError: numbers that are no part.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(f'a part is I/N with I from 1 to N, as in 2/8; got {self}')

    @classmethod
    def parse(cls, text: str | None) -> Part:
        """The part that '2/8' names; None is the whole.

        Raises:
            InputError: another text.
        """
        if text is None:
            return cls()
        found = re.fullmatch(r'\s*(\d{1,6})\s*/\s*(\d{1,6})\s*', text)
        if not found:
            raise InputError(f'a part is I/N with I from 1 to N, as in 2/8; got {text!r:.40}')
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f'{self.number}/{self.count}'

    def of(self, items: Sequence[Item], what: str = 'item') -> list[Item]:
        """Every N-th item.

        Raises:
            InputError: fewer items than parts.
        """
        if len(items) < self.count:
            raise InputError(
                f'{counted(len(items), what)} cannot be divided into {self.count} parts; use fewer'
            )
        return list(items[self.number - 1 :: self.count])


class Job:
    """A part of a job in a folder.

    Args:
        folder: of the results; new, empty, or of the same job.
        command: as users know it, such as 'nouns'.
        settings: everything that the results depend on, as JSON values.
        part: which part this is.
        overwrite: start anew in a folder with other files or another job; the caller removes the results.

    Example:
        >>> with job.running():
        ...     for unit in job.part.of(units):
        ...         if not unit.output.exists():
        ...             unit.write()
        ...     job.finish({'shards': 10}, merge)
    """

    def __init__(
        self,
        folder: str | Path,
        command: str,
        settings: Mapping[str, Any],
        part: Part | None = None,
        overwrite: bool = False,
    ) -> None:
        self.overwrite = overwrite
        self.folder, self.command, self.part = Path(folder), command, part or Part()
        self.state = self.folder / STATE
        self._record = {
            'format': _FORMAT,
            'command': command,
            'parts': self.part.count,
            'settings': json.loads(json.dumps(dict(settings))),  # tuples become lists, as in the file
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start or continue the part, alone.

        Raises:
            InputError: the folder belongs to something else, to another number of parts, or to other
                settings; or the same part is running.
        """
        check_output_folder(self.folder)
        if self.overwrite and self.part.count > 1:
            raise InputError(f'a part cannot overwrite: remove {self.folder}, then run the parts')
        if self.overwrite:
            shutil.rmtree(self.state, ignore_errors=True)
        known = _record_of(self.folder)
        others = sorted(set(os.listdir(self.folder)) - {STATE}) if self.folder.is_dir() else []
        if known is None and others and not self.overwrite:
            raise InputError(
                f'{self.folder} exists and does not belong to a job of `clipdense {self.command}` '
                f'({others[0]}); choose a new folder'
            )
        writable_folder(self.folder)
        writable_folder(self.state)
        if known is None:
            _create(self.state / 'job.json', self._record, str(self.part.number))
        self._compare(_record_of(self.folder) or {})
        name = f'.lock-{self.part.number}'
        with locked(self.state, name, f'part {self.part} of {self.folder}', 'wait for it'):
            yield

    @property
    def reports(self) -> dict[int, Any]:
        """What each part that is done has reported, by its number."""
        found = {}
        for number in range(1, self.part.count + 1):
            path = _done(self.state, number)
            if path.exists():
                found[number] = read_json(path)
        return found

    @property
    def missing(self) -> list[int]:
        """Parts that are not done yet."""
        return missing_parts(self.state, self.part.count)

    @property
    def complete(self) -> bool:
        """Whether all parts are done, and merged if they have to be."""
        return not self.missing and (not _needs_merge(self.state).exists() or _merged(self.state).exists())

    def finish(self, report: Mapping[str, Any], merge: Callable[[], object] | None = None) -> None:
        """Mark the part as done; the last one also merges, if there is something to merge.

        Args:
            report: JSON values.
            merge: joins what the parts have written; may run again if it was interrupted.
        """
        if merge is not None:
            _write(_needs_merge(self.state), {})
        _write(_done(self.state, self.part.number), report)
        if self.missing or merge is None or _merged(self.state).exists():
            return
        with contextlib.suppress(InUse), locked(self.state, '.lock-merge'):  # else another part merges
            if not _merged(self.state).exists():
                merge()
                _write(_merged(self.state), {})

    def _compare(self, known: Mapping[str, Any]) -> None:
        """Refuse the folder of another job."""
        if known.get('command') != self.command:
            raise InputError(
                f'{self.folder} belongs to `clipdense {known.get("command")}`, not `clipdense '
                f'{self.command}`; choose a new folder'
            )
        if known.get('parts') != self.part.count:
            before = known.get('parts')
            hint = 'leave out --part' if before == 1 else f'give --part I/{before}'
            raise InputError(
                f'{self.folder} was started as {before} part{"" if before == 1 else "s"}, not '
                f'{self.part.count}: {hint} to continue, or choose a new folder'
            )
        mine, theirs = self._record['settings'], known.get('settings', {})
        for name in {**mine, **theirs}:
            if mine.get(name) != theirs.get(name):
                raise InputError(
                    f'{self.folder} was started with another {name} ({_short(theirs.get(name))}, now '
                    f'{_short(mine.get(name))}); choose a new folder'
                )


def missing_parts(state: Path, count: int) -> list[int]:
    """Numbers of the parts that are not done."""
    return [number for number in range(1, count + 1) if not _done(state, number).exists()]


def refuse_incomplete(folder: str | Path) -> None:
    """Refuse to read the folder of a job that is not complete; does nothing for other folders.

    Raises:
        InputError: naming what is missing.
    """
    folder = Path(folder)
    known = _record_of(folder)
    if known is None:
        return
    count, command = int(known.get('parts', 1)), known.get('command')
    missing = missing_parts(folder / STATE, count)
    if missing:
        named = ', '.join(f'{number}/{count}' for number in missing[:_LISTED])
        more = f' and {len(missing) - _LISTED} more' if len(missing) > _LISTED else ''
        what = f'part{"s" if len(missing) > 1 else ""} {named}{more} of `clipdense {command}`'
        raise InputError(f'{folder} is incomplete: run {what} to the end first')
    if _needs_merge(folder / STATE).exists() and not _merged(folder / STATE).exists():
        raise InputError(f'{folder} is not merged yet: run one of the parts of `clipdense {command}` again')


def refuse_parts(folder: str | Path) -> None:
    """Refuse a folder in which parts of a job have been started.

    Raises:
        InputError: naming the number of parts.
    """
    known = _record_of(Path(folder))
    if known is not None:
        count = known.get('parts')
        raise InputError(
            f'{folder} was started as {count} parts: give --part I/{count} to continue, or choose a new '
            'folder'
        )


def _record_of(folder: Path) -> dict[str, Any] | None:
    """The record of the job of a folder; None if it has none."""
    path = folder / STATE / 'job.json'
    if not path.exists():
        return None
    known = read_json(path)
    if not isinstance(known, dict) or known.get('format') != _FORMAT:
        raise InputError(f'{path} is damaged or of another version; choose a new folder')
    return known


def _create(path: Path, value: Mapping[str, Any], own_name: str) -> None:
    """Write a file unless it exists: of parts that start together, one creates the record."""
    own = path.with_name(f'{path.name}.{own_name}.{os.getpid()}')
    _write(own, value)
    try:
        os.link(own, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            os.replace(own, path)
    own.unlink(missing_ok=True)


def _done(state: Path, number: int) -> Path:
    return state / f'part-{number}.json'


def _needs_merge(state: Path) -> Path:
    return state / 'needs_merge.json'


def _merged(state: Path) -> Path:
    return state / 'merged.json'


def _write(path: Path, value: Mapping[str, Any]) -> None:
    with atomic_write(path, 'w') as file:
        json.dump(value, file, ensure_ascii=False)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f'{text[:57]}...'
