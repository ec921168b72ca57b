"""Regular files, atomic writing, and digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from .errors import InputError, InUse, WriteError, nearest

SHARD_SUFFIXES = ('.tar', '.tar.gz', '.tgz')
_KINDS = (
    (stat.S_ISDIR, 'a folder'),
    (stat.S_ISFIFO, 'a named pipe (FIFO)'),
    (stat.S_ISCHR, 'a device'),
    (stat.S_ISBLK, 'a device'),
    (stat.S_ISSOCK, 'a socket'),
)
_NO_SPACE = {
    errno.ENOSPC: 'the disk is full',
    errno.EDQUOT: 'the disk quota is exceeded',
    errno.EFBIG: 'the limit on the size of a file is reached (ulimit -f)',
}


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = 'wb', needed: int = 0) -> Iterator[IO[Any]]:
    """Open a temporary file next to ``path`` that replaces it when it is complete and on disk.

    After an error the old file is unchanged and the temporary one is removed.  A symbolic link is kept: the
    file that it names is written.

    Args:
        path: of the file; missing folders are created.
        mode: 'wb' or 'w' (UTF-8).
        needed: lowest size of the file in bytes, if known, for the message.

    Raises:
        InputError: the path is a folder, a device, a named pipe or a socket.
        WriteError: the disk or quota is full, or the folder is not writable.
    """
    path = output_file(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f'.{path.name[:40]}.'  # names are limited to 255 bytes
        handle, name = tempfile.mkstemp(prefix=prefix, suffix='.tmp', dir=path.parent)
        temporary = Path(name)
        encoding = None if 'b' in mode else 'utf-8'
        with os.fdopen(handle, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        cause = _cause(error)
        if cause is None:
            raise
        written = _remove(temporary)  # before free space is measured
        size = f'at least {max(needed, written):,}'
        raise WriteError(explain_write_error(cause, path, size)) from error
    finally:
        _remove(temporary)


def append_line(path: str | Path, line: str) -> None:
    """Append a line to a text file, the whole line or nothing; missing folders are created.

    Raises:
        WriteError: the disk is full, or the file is not writable.
    """
    path, data = Path(path), f'{line}\n'.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, 'ab', buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            try:
                done = 0
                while done < len(data):
                    done += file.write(data[done:])
            except OSError:
                file.truncate(start)
                raise
    except OSError as error:
        raise WriteError(explain_write_error(error, path, f'{len(data):,}')) from error


@contextlib.contextmanager
def locked(
    folder: Path,
    name: str = '.lock',
    what: str | None = None,
    advice: str = 'wait for it, or choose another work_dir',
) -> Iterator[None]:
    """Use a folder alone; the lock ends with the process at the latest.

    Nothing is locked where the system or the file system cannot.

    Args:
        folder: which exists.
        name: of the lock; other names lock other parts of the folder.
        what: is locked, for the message; the folder by default.
        advice: the end of the message.

    Raises:
        InUse: another process uses it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = folder / name
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise WriteError(explain_write_error(error, path)) from error
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                user = os.read(handle, 100).decode(errors='replace') or 'another process'
                raise InUse(f'{what or folder} is in use by another run ({user}); {advice}') from error
        with contextlib.suppress(OSError):  # a full disk
            os.truncate(handle, 0)
            os.write(handle, f'process {os.getpid()} on {platform.node()}'.encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def writable_folder(path: str | Path) -> Path:
    """Make a folder, with its parents, and check that files can be written to it.

    Raises:
        WriteError: it cannot be made, or is not writable.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f'cannot make the folder {path}: {error.strerror or error}') from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise WriteError(f'the folder {path} is not writable; choose another one, or change its permissions')
    return path


def output_file(path: str | Path) -> Path:
    """The path that a file is written to: that of a symbolic link's target, else the path itself.

    Raises:
        InputError: a folder, a device, a named pipe or a socket, which no file may replace.
    """
    kind = special_file(path)
    if kind:
        raise InputError(f'cannot write {path}: it is {kind}, not a file; choose another name')
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def check_output_folder(folder: str | Path) -> None:
    """Check that files can be written into a folder, which need not exist yet.

    Raises:
        InputError: the folder, or the nearest existing one above it, is a file or not writable, or a name is
            too long.
    """
    folder = Path(folder)
    existing = _nearest_existing(folder)
    if not existing.is_dir():
        raise InputError(f'cannot write into {folder}: {existing} is not a folder')
    _check_names(folder)
    try:
        with tempfile.TemporaryFile(
            dir=existing
        ):  # root may write everywhere, except that /proc takes no files
            pass
    except PermissionError:
        raise InputError(f'cannot write into {folder}: no permission, or a read-only file system') from None
    except OSError as error:
        raise InputError(
            f'cannot write into {folder}: {existing} takes no files ({error.strerror})'
        ) from None


def _check_names(path: Path) -> None:
    """Raise for a name that is too long for the file system."""
    try:
        longest = os.pathconf(_nearest_existing(path), 'PC_NAME_MAX')
    except (AttributeError, OSError, ValueError):  # Windows
        return
    for name in path.parts:
        if len(os.fsencode(name)) > longest:
            raise InputError(
                f'cannot write {name[:40]}...: the name has more than {longest} bytes, shorten it'
            )


def _nearest_existing(path: Path) -> Path:
    return next((one for one in (path, *path.parents) if os.path.lexists(one)), Path())


def names_shards(path: str) -> bool:
    """Whether this is a pattern with braces or wildcards, or a URL, of shards, and no file itself."""
    several = bool(set('{*?[') & set(path)) or '://' in path
    return several and path.endswith(SHARD_SUFFIXES) and not Path(path).expanduser().exists()


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


def explain_write_error(error: OSError, path: Path, needed: str = 'some') -> str:
    """A message with the path and the reason, and where space is short, the needed and the free bytes."""
    reason = _NO_SPACE.get(error.errno or 0)
    if reason is None:
        return f'cannot write {path}: {error.strerror or error}'
    folder = next(place for place in (path.parent, *path.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    return (
        f'no space to write {path}: {reason}, {needed} bytes needed, {free:,} bytes free; '
        'the old file is unchanged'
    )


def _cause(error: BaseException | None) -> OSError | None:
    """The system's error behind an error; torch raises a RuntimeError of its own where the disk is full."""
    if isinstance(error, OSError):
        return error
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error if error is not None and error.errno in (*_NO_SPACE, errno.EIO) else None


def _remove(path: Path | None) -> int:
    """Delete a file, if it exists, and return its size."""
    with contextlib.suppress(OSError):
        if path is not None:
            size = path.stat().st_size
            path.unlink()
            return size
    return 0


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


def check_outputs(paths: Sequence[Path], overwrite: bool, inputs: Sequence[str | Path | None] = ()) -> None:
    """Check that files can be written: refuse to replace existing ones without ``--overwrite``.

    Args:
        paths: of the files.
        overwrite: whether regular files may be replaced.
        inputs: files that are read, which are never replaced.

    Raises:
        InputError: naming the first file that exists, is not a regular file, is an input, or whose folder
            cannot be written to.
    """
    read = {os.path.realpath(one): one for one in inputs if one is not None}
    for path in paths:
        target = os.path.realpath(output_file(path))
        if target in read:
            raise InputError(f'{path} is an input ({read[target]}) and is not replaced: choose another --out')
    for folder in dict.fromkeys(path.parent for path in paths):
        check_output_folder(folder)
    for path in paths:
        _check_names(path)
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        more = len(existing) - 1
        others = f'{more} more files exist' if more > 1 else f'so does {existing[-1].name}'
        found = f' exists and {others}' if more else ' exists'
        raise InputError(f'{existing[0]}{found}: choose another --out, or add --overwrite to replace')


def check_new_folder(
    folder: str | Path, overwrite: bool, inputs: Sequence[str | Path] = (), state: str = ''
) -> None:
    """Check that a data set can be written into a folder: refuse one with files without ``--overwrite``.

    Args:
        folder: of the data set; it need not exist.
        overwrite: whether files in it may be replaced; others stay.
        inputs: what is read, which must not be in the folder.
        state: name of the folder in it by which an incomplete data set is known, which is completed.

    Raises:
        InputError: the folder has files, contains an input, or cannot be written to.
    """
    folder = Path(folder)
    check_output_folder(folder)
    real = Path(os.path.realpath(folder))
    inside = next((one for one in inputs if Path(os.path.realpath(one)).is_relative_to(real)), None)
    if inside is not None:
        raise InputError(f'{folder} contains the input {inside}: choose another folder')
    resumed = bool(state) and (folder / state).is_dir()
    if not overwrite and not resumed and folder.is_dir() and any(folder.iterdir()):
        raise InputError(f'{folder} exists and is not empty: choose another one, or add --overwrite')
