"""Regular files, atomic writing, and digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import InputError, nearest

_KINDS = (
    (stat.S_ISDIR, 'a folder'),
    (stat.S_ISFIFO, 'a named pipe (FIFO)'),
    (stat.S_ISCHR, 'a device'),
    (stat.S_ISBLK, 'a device'),
    (stat.S_ISSOCK, 'a socket'),
)
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


def special_file(path: str | Path) -> str:
    """What a path is if not a regular file: 'a folder', 'a device', ...; '' for a regular or missing file.

    Nothing is opened, so a named pipe does not block.  Links are followed.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return ''
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), '')


def regular_file(path: str | Path, max_bytes: int | None = None) -> Path:
    """The path of an existing regular file, with ``~`` expanded.  To be called before a file is opened.

    A named pipe would block the program, and a device such as ``/dev/zero`` would fill the memory.

    Args:
        path: of the file; links are followed.
        max_bytes: the largest size that is accepted; None for any.

    Raises:
        InputError: the file does not exist, is not a regular file, or is too large.
    """
    try:
        path = Path(path).expanduser()
        found = os.stat(path)
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a null byte; RuntimeError: no home
        raise InputError(_not_found(Path(path), error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f'{path} is {special_file(path)}, not a regular file')
    if max_bytes is not None and found.st_size > max_bytes:
        raise InputError(
            f'{path} is too large: {found.st_size / 1e6:.0f} MB, the limit is {max_bytes / 1e6:.0f} MB'
        )
    return path


def _not_found(path: Path, error: Exception) -> str:
    if not isinstance(error, FileNotFoundError):
        return f'{path} cannot be read: {getattr(error, "strerror", None) or error}'
    if path.is_symlink():
        return f'{path} is a link to {os.readlink(path)}, which does not exist'
    try:
        near = nearest(path.name, os.listdir(path.parent))
    except OSError:
        near = ''
    return f'{path} does not exist.{near}' if near else f'{path} does not exist'


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
