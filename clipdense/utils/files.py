"""Atomic writing of files, and digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import InputError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = 'wb') -> Iterator[IO[Any]]:
    """Open a temporary file next to ``path`` that replaces it when it is complete and on disk.

    After an error the old file is unchanged and the temporary one is removed.

    Raises:
        InputError: the disk or quota is full, or the folder is not writable.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent)
        temporary = Path(name)
        encoding = None if 'b' in mode else 'utf-8'
        with os.fdopen(handle, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(_explain(error, path)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, 'rb') as file:
        total = hashlib.sha256()
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def digest(*parts: str | bytes) -> str:
    """SHA-256 of the parts, each preceded by its length, so that the split into parts matters."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, 'little'))
        total.update(data)
    return total.hexdigest()


def cache_folder() -> Path:
    """``$CLIPDENSE_CACHE``, else ``$XDG_CACHE_HOME/clipdense``, else ``~/.cache/clipdense``."""
    named = os.environ.get('CLIPDENSE_CACHE')
    if named:
        return Path(named)
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'clipdense'


def _explain(error: OSError, path: Path) -> str:
    if error.errno in _NO_SPACE:
        folder = path.parent if path.parent.exists() else Path.cwd()
        free = shutil.disk_usage(folder).free
        return f'no space to write {path} ({free / 1e6:.0f} MB free, or a quota); the old file is unchanged'
    return f'cannot write {path}: {error.strerror or error}'


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the rename durable; some platforms cannot open a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
