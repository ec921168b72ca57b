"""Files from the network: checked, resumable, never half there, and never against the user's wish."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipdense.utils.errors import InputError
from clipdense.utils.files import sha256
from clipdense.utils.progress import track

_MEBIBYTE = 1 << 20
_TIMEOUT = 30.0  # seconds without an answer
_OFFLINE = ('CLIPDENSE_OFFLINE', 'HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE')


class NotPublished(InputError):
    """The server has no such file."""


def offline() -> str:
    """The environment variable that forbids the network, as 'NAME=value'; empty where it is allowed."""
    for name in _OFFLINE:
        if os.environ.get(name, '').lower() in ('1', 'on', 'yes', 'true'):
            return f'{name}={os.environ[name]}'
    return ''


def download(url: str, target: Path, digest: str = '') -> Path:
    """Fetch ``url`` into ``target``, which appears once it is complete and its SHA-256 is right.

    A download that broke off is continued where it stopped.  Several processes may ask for the same file.

    Args:
        url: of the file.
        target: where it shall lie; returned at once where it is there already.
        digest: SHA-256 or its first digits; Hugging Face's servers state it themselves.

    Raises:
        NotPublished: the server has no such file.
        InputError: offline, unreachable, cut short, a web page instead of the file, or of a wrong digest.
    """
    if target.is_file():
        return target
    forbidden = offline()
    if forbidden:
        raise InputError(f'{target.name} is not on this machine and {forbidden} forbids to download it')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if not target.is_file():
                part = target.with_name(f'{target.name}.part')
                stated = _transfer(url, part)
                _verify(part, digest or stated, url)
                os.replace(part, target)
    except OSError as error:
        raise InputError(
            f'cannot write {target}: {error.strerror or error}; set CLIPDENSE_CACHE to a folder with room'
        ) from error
    return target


def _transfer(url: str, part: Path) -> str:
    """Append what is missing of ``url`` to ``part``; returns the digest that the server states, or ''."""
    done = part.stat().st_size if part.is_file() else 0
    response, stated = _open(url, done)
    with response:
        if done and response.status != http.client.PARTIAL_CONTENT:
            done = 0  # the server sends everything again
        if response.headers.get_content_type() == 'text/html':
            raise InputError(f'{url} is a web page instead of a file: download it in a browser')
        length = response.headers.get('Content-Length')
        total = done + int(length) if length else None
        with open(part, 'ab' if done else 'wb') as file:
            try:
                count = None if total is None else -(-(total - done) // _MEBIBYTE)
                for block in track(_blocks(response), f'{part.stem} (MiB)', count):
                    file.write(block)
                    done += len(block)
            except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
                raise InputError(_stopped(url, done, total)) from error
            finally:
                file.flush()
                os.fsync(file.fileno())
    if total is not None and done < total:
        raise InputError(_stopped(url, done, total))
    return stated


def _open(url: str, start: int) -> tuple[Any, str]:
    """The answer from byte ``start`` on, and the digest that a server on the way stated."""
    redirects = _Redirects()
    headers = {'User-Agent': 'clipdense', **({'Range': f'bytes={start}-'} if start else {})}
    request = urllib.request.Request(url, headers=headers)
    try:
        return urllib.request.build_opener(redirects).open(request, timeout=_TIMEOUT), redirects.digest
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return _open(url, 0)  # what is here is no beginning of what is there
        if error.code == http.client.NOT_FOUND:
            raise NotPublished(f'{url} is not there (404)') from error
        raise InputError(
            f'{url} cannot be downloaded: the server answers {error.code} {error.reason}'
        ) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, 'reason', error)
        raise InputError(
            f'{url} cannot be reached ({reason}): download it elsewhere and name the file'
        ) from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; Hugging Face states the SHA-256 of large files in the first of them."""

    digest = ''

    def redirect_request(
        self, request: Any, file: Any, code: int, message: str, headers: Any, url: str
    ) -> Any:
        etag = headers.get('X-Linked-Etag', '').strip('"')
        self.digest = etag if re.fullmatch('[0-9a-f]{64}', etag) else self.digest
        return super().redirect_request(request, file, code, message, headers, url)


def _blocks(response: Any) -> Iterator[bytes]:
    while block := response.read(_MEBIBYTE):
        yield block


def _stopped(url: str, done: int, total: int | None) -> str:
    return f'{url} stopped after {done} of {total or "?"} bytes: run again, and it continues from there'


def _verify(part: Path, digest: str, url: str) -> None:
    found = sha256(part) if digest else ''
    if not found.startswith(digest):
        part.unlink()
        raise InputError(f'{url} has the wrong sha256 {found[: len(digest)]}, not {digest}: it was removed')


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One process at a time; the others wait, and then find the file."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(target.with_name(f'{target.name}.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
