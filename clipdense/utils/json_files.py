"""Read JSON: bounded in size and depth, without losing entries, with errors that name the file and line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import regular_file

_VARIABLE = 'CLIPDENSE_MAX_JSON_MB'
_DEFAULT_MEGABYTES = 256


def read_json(path: str | Path, max_bytes: int | None = None) -> Any:
    """Read a JSON file.

    UTF-8 with or without a byte order mark is read, and UTF-16 and UTF-32 of some editors on Windows.

    Args:
        path: of the file, which must be a regular file.
        max_bytes: the largest size that is read; by default ``$CLIPDENSE_MAX_JSON_MB`` megabytes, else 256.

    Raises:
        InputError: the file does not exist, is not a regular file or is too large; or see ``parse_json``.
    """
    adjustable = max_bytes is None
    limit = _default_limit() if max_bytes is None else max_bytes
    path = regular_file(path)
    try:
        with open(path, 'rb') as file:
            data = file.read(limit + 1) if path.stat().st_size <= limit else None
    except OSError as error:
        raise InputError(f'{path} cannot be read: {error.strerror or error}') from error
    if data is None or len(data) > limit:
        hint = f': set {_VARIABLE} to a larger number to read it' if adjustable else ''
        raise InputError(
            f'{path} is too large for JSON of this kind: the limit is {limit / 1e6:.0f} MB{hint}'
        )
    return parse_json(data, path)


def parse_json(data: str | bytes, source: str | Path) -> Any:
    """Parse JSON, such as a member of an archive or an entry of metadata.

    Args:
        data: text, or its bytes.
        source: name of the file or entry, for error messages.

    Raises:
        InputError: not JSON (with line and column), not Unicode, nested too deeply, a key that an object has
            twice with different values, or a number that is too long.
    """
    if not data.strip():
        raise InputError(f'{source} is empty: JSON expected')
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        return json.loads(text.removeprefix('\ufeff'), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = f'line {error.lineno}, column {error.colno}'
        raise InputError(f'{source} is not valid JSON: {error.msg} ({place})') from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b'\n') + 1
        raise InputError(
            f'{source} is not UTF-8: line {line} has an invalid byte; save it as UTF-8'
        ) from error
    except _Repeated as error:
        raise InputError(f'{source} has the key {error.args[0]!r} twice in one object: remove one') from error
    except (RecursionError, MemoryError) as error:
        raise InputError(f'{source} is nested too deeply, or too large, to be read as JSON') from error
    except ValueError as error:  # of int()
        raise InputError(f'{source} is not valid JSON: it has an integer of thousands of digits') from error


class _Repeated(Exception):
    """An object has a key twice, with different values."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        for key, value in pairs:
            if values[key] != value:
                raise _Repeated(key)
    return values


def _default_limit() -> int:
    """Bytes."""
    given = os.environ.get(_VARIABLE, '')
    if not given:
        return _DEFAULT_MEGABYTES * 1_000_000
    try:
        megabytes = float(given)
    except ValueError:
        megabytes = 0.0
    if not 0 < megabytes < 1e9:
        raise InputError(f'{_VARIABLE} must be a number of megabytes such as 500, got {given!r}')
    return int(megabytes * 1_000_000)
