"""What commands print for programs: with ``--json``, standard output has JSON only."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from math import isfinite
from typing import IO, Any

_stdout: ContextVar[IO[str] | None] = ContextVar('_stdout', default=None)


@contextmanager
def json_only(wanted: bool = True) -> Iterator[None]:
    """Everything that is printed or logged goes to standard error, but for ``print_json``."""
    if not wanted:
        yield
        return
    token = _stdout.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout.reset(token)


def print_json(value: Any) -> None:
    """Print JSON to standard output; numbers that are not finite become ``null``."""
    stream = _stdout.get() or sys.stdout
    escaped = 'utf' not in (getattr(stream, 'encoding', None) or '').lower()
    text = json.dumps(_finite(value), ensure_ascii=escaped, indent=1, default=_plain, allow_nan=False)
    print(text, file=stream)


def _plain(value: Any) -> Any:
    """Numbers of NumPy and PyTorch as Python's, other objects as text."""
    return _finite(value.item()) if hasattr(value, 'item') else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
