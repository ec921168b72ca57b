"""Shards as streams of bytes: files, commands (``pipe:``) and object stores (URLs of fsspec).

A stream that fails or stalls is opened again at the same byte.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import queue
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mmengine.logging import print_log

from clipdense.utils.errors import InputError, MissingPackage

_COMMAND = 'pipe'
_TIMEOUT, _RETRIES = 'CLIPDENSE_STREAM_TIMEOUT', 'CLIPDENSE_STREAM_RETRIES'
_DEFAULTS = {_TIMEOUT: 60.0, _RETRIES: 3}  # seconds without data; attempts after the first
_CHUNK = 1 << 20
_AHEAD = 4  # chunks that are read ahead
_WAIT = 0.5  # seconds before the first retry, then twice as long each time
_CLOSED = (0, 128 + signal.SIGPIPE, -signal.SIGPIPE)  # of a command whose output was not read to its end
_EMPTY_READS = 64  # at the end of a file, by a reader that skips a member
_BLOCK = 512  # bytes; a tar ends with blocks of zeros
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, InputError)  # not tried again


def scheme_of(url: str) -> str:
    """'' for a path, 'pipe', 's3', 'https', ...

    Raises:
        InputError: a scheme that fsspec does not know.
        MissingPackage: one whose package is not installed.
    """
    scheme, colon, _ = url.partition(':')
    if not colon or os.sep in scheme:
        return ''
    if scheme == _COMMAND:
        return scheme
    import fsspec

    if scheme not in fsspec.available_protocols():
        raise InputError(f'{url}: unsupported URL scheme {scheme}; use file, pipe, https, s3, gs, ...')
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise MissingPackage(f"{url}: {error}; pip install 'clipdense[shards]' has the usual ones") from error
    return scheme


def expand_remote(url: str) -> list[str]:
    """The shards that a URL names: itself, or the matches of a ``*`` in it, sorted.

    Raises:
        InputError: the store cannot be listed.
    """
    if '*' not in url or scheme_of(url) in ('', _COMMAND):
        return [url]
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(url)
        return sorted(store.unstrip_protocol(found) for found in store.glob(path))
    except Exception as error:  # each store has errors of its own
        raise InputError(f'{url} cannot be listed: {type(error).__name__}: {error}') from error


def open_stream(url: str) -> Any:
    """A file, or a stream that is retried; has ``read`` and ``close``.

    Raises:
        OSError: a file that cannot be opened.
    """
    return SteadyStream(url) if scheme_of(url) else Path(url).open('rb')


class SteadyStream:
    """The bytes of a command or URL, read ahead in a thread.

    After an error, or ``$CLIPDENSE_STREAM_TIMEOUT`` seconds (60) without data, it is opened again (a command
    is run again) and continued at the same byte, ``$CLIPDENSE_STREAM_RETRIES`` times (3) in a row.

    Args:
        url: as ``scheme_of`` knows it.
    """

    def __init__(self, url: str) -> None:
        self.url, self.position = url, 0
        self._timeout, self._retries = float(_setting(_TIMEOUT)), int(_setting(_RETRIES))
        self._failed, self._rest = 0, b''
        self._reader = _Reader(url, 0)

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; empty at the end.

        Raises:
            OSError: the stream has failed too often.
        """
        if size < 0:
            return b''.join(iter(lambda: self.read(_CHUNK), b''))
        if not self._rest:
            self._rest = self._next()
        data, self._rest = self._rest[:size], self._rest[size:]
        self.position += len(data)
        return data

    def close(self) -> None:
        """Stop reading."""
        self._reader.stop()

    def _next(self) -> bytes:
        """The next chunk, from a new reader if the present one fails."""
        while True:
            try:
                found = self._reader.chunks.get(timeout=self._timeout)
            except queue.Empty:
                found = TimeoutError(f'no data for {self._timeout:g} s')
            if isinstance(found, bytes):
                self._failed = 0
                return found
            self._reader.stop()
            if isinstance(found, _FINAL):
                raise found
            self._failed += 1
            if self._failed > self._retries:
                raise OSError(f'{found} (after {self._failed} attempts)')
            wait = _WAIT * 2 ** (self._failed - 1)
            print_log(
                f'{self.url}: {found} at byte {self.position}; trying again in {wait:g} s '
                f'({self._failed} of {self._retries})',
                logger='current',
                level=logging.WARNING,
            )
            time.sleep(wait)
            self._reader = _Reader(self.url, self.position)


class _Reader:
    """A thread that puts chunks, or an error, into a queue; an empty chunk is the end."""

    def __init__(self, url: str, start: int) -> None:
        self.chunks: queue.Queue[bytes | Exception] = queue.Queue(_AHEAD)
        self._url, self._start, self._stopped = url, start, threading.Event()
        self._process: subprocess.Popen | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """End the thread, and a command; a read that hangs is left behind."""
        self._stopped.set()
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _run(self) -> None:
        try:
            with self._opened() as file:
                while data := file.read(_CHUNK):
                    self._put(data)
                    if self._stopped.is_set():
                        return
            self._put(b'')
        except Exception as error:  # each store has errors of its own
            known = isinstance(error, OSError | InputError)
            self._put(error if known else OSError(f'{type(error).__name__}: {error}'))

    def _put(self, item: bytes | Exception) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.chunks.put(item, timeout=0.2)
                return

    @contextlib.contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if self._url.partition(':')[0] == _COMMAND:
            with self._command(self._url.partition(':')[2]) as file:
                yield file
            return
        import fsspec

        with fsspec.open(self._url, 'rb') as file:
            if self._start:
                file.seek(self._start)
            yield file

    @contextlib.contextmanager
    def _command(self, command: str) -> Iterator[IO[bytes]]:
        process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, start_new_session=True)
        self._process = process
        assert process.stdout is not None
        with process.stdout as file:
            left = self._start
            while left and (data := file.read(min(left, _CHUNK))):
                left -= len(data)
            yield file
        status = process.wait()
        if status not in _CLOSED and not self._stopped.is_set():
            raise OSError(f'the command ended with status {status}')


def _setting(name: str) -> float:
    given = os.environ.get(name, '')
    try:
        value = float(given or _DEFAULTS[name])
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise InputError(f'{name} must be a number of at least 0, got {given!r}')
    return value


class MeteredStream:
    """A decompressed file for tar readers that records the position and the last bytes.

    Python's tar reader accepts a shard that is truncated between two members or continues with garbage.

    Args:
        file: has ``read`` and ``close``.
        url: its name; '.gz' and '.tgz' are decompressed.
    """

    @classmethod
    def open(cls, url: str) -> MeteredStream:
        """Open a shard.

        Raises:
            OSError: it cannot be opened.
        """
        return cls(open_stream(url), url)

    def __init__(self, file: Any, url: str) -> None:
        self.url, self.position = url, 0
        self._file = file
        self._source = gzip.GzipFile(fileobj=file) if url.endswith(('.gz', '.tgz')) else file
        self._is_tar, self._tail, self._empty = False, b'', 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes, decompressed.

        Raises:
            EOFError: at the end of the file, again and again: a header may announce more than any file holds.
        """
        data = self._source.read(size)
        self._empty = 0 if data else self._empty + 1
        if self._empty > _EMPTY_READS:
            raise EOFError('the file ends within a member')
        if not self.position:
            self._is_tar = data[257:262] == b'ustar'
        self.position += len(data)
        self._tail = (self._tail + data)[-_BLOCK:]
        return data

    def check_end(self) -> None:
        """Check the end of the archive, after the last member.

        Raises:
            tarfile.ReadError: the end-of-archive mark is missing.
        """
        if self._is_tar and self._tail.strip(b'\0'):
            raise tarfile.ReadError('no end-of-archive mark; the file may be truncated')

    def close(self) -> None:
        """Close the file."""
        self._file.close()
