"""Download files: with checksum, resumable, atomic, and only if the user allows network access."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipdense.utils.errors import InputError
from clipdense.utils.files import sha256
from clipdense.utils.progress import track

_MEBIBYTE = 1 << 20
_TIMEOUT = 30.0  # seconds without a response
_OFFLINE = ('CLIPDENSE_OFFLINE', 'HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE')


class Unavailable(InputError):
    """A file that is in no cache and cannot be downloaded."""


class NotPublished(Unavailable):
    """The server does not have the file."""


def offline() -> str:
    """The environment variable that disables downloads, as 'NAME=value'; empty if they are allowed."""
    for name in _OFFLINE:
        if os.environ.get(name, '').lower() in ('1', 'on', 'yes', 'true'):
            return f'{name}={os.environ[name]}'
    return ''


def hub_endpoint() -> str:
    """The address of Hugging Face, or of the mirror that HF_ENDPOINT names."""
    return (os.environ.get('HF_ENDPOINT') or 'https://huggingface.co').rstrip('/')


def download(url: str, target: Path, digest: str = '') -> Path:
    """Download ``url`` to ``target``, which is created once it is complete and its SHA-256 is correct.

    An interrupted download is resumed.  Several processes may download the same file.  The token in HF_TOKEN
    is sent to ``hub_endpoint`` and nowhere else.

    Args:
        url: of the file.
        target: path of the file; returned at once if it exists.
        digest: SHA-256 or its first digits; servers of Hugging Face send it themselves.

    Raises:
        NotPublished: the server does not have the file.
        Unavailable: offline or unreachable.
        InputError: interrupted, a web page instead of the file, or a wrong checksum.
    """
    if target.is_file():
        return target
    forbidden = offline()
    if forbidden:
        raise Unavailable(
            f'{target.name} is not cached and {forbidden} disables downloads: unset it or copy the file to '
            f'{target}'
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            if not target.is_file():
                part = target.with_name(f'{target.name}.part')
                stated = _transfer(url, part)
                _verify(part, digest or stated, url)
                os.replace(part, target)
    except OSError as error:
        raise InputError(
            f'cannot write {target}: {error.strerror or error}; set CLIPDENSE_CACHE to a '
            'writable folder with enough space'
        ) from error
    return target


def _transfer(url: str, part: Path) -> str:
    """Append the missing bytes of ``url`` to ``part``; returns the checksum that the server sends, or ''."""
    done = part.stat().st_size if part.is_file() else 0
    response, stated = _open(url, done)
    with response:
        if done and response.status != http.client.PARTIAL_CONTENT:
            done = 0  # the server sends the whole file
        if response.headers.get_content_type() == 'text/html':
            raise InputError(f'{url} is a web page, not a file: download it in a browser and give its path')
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
    """The response from byte ``start`` on, and the checksum that a server sent in a redirect."""
    redirects = _Redirects()
    headers = {'User-Agent': 'clipdense', **({'Range': f'bytes={start}-'} if start else {})}
    request = urllib.request.Request(url, headers=headers)
    _authorize(request)
    try:
        return urllib.request.build_opener(redirects).open(request, timeout=_TIMEOUT), redirects.digest
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return _open(url, 0)  # the partial file does not match the file on the server
        if error.code == http.client.NOT_FOUND:
            raise NotPublished(f'{url} does not exist (404)') from error
        raise Unavailable(
            f'{url} cannot be downloaded: HTTP status {error.code} {error.reason}{_access(url, error.code)}'
        ) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, 'reason', error)
        raise Unavailable(
            f'{url} cannot be reached ({reason}): download it elsewhere and give the path of the file'
        ) from error


def _authorize(request: urllib.request.Request) -> None:
    """Add the user's token to a request to Hugging Face; it is not passed on by redirects to other hosts."""
    token = os.environ.get('HF_TOKEN', '').strip()
    if token and _of_hub(request.full_url):
        request.add_unredirected_header('Authorization', f'Bearer {token}')


def _of_hub(url: str) -> bool:
    return urllib.parse.urlsplit(url)[:2] == urllib.parse.urlsplit(hub_endpoint())[:2]


def _access(url: str, status: int) -> str:
    """What may be wrong with the access to a repository of Hugging Face."""
    if status not in (http.client.UNAUTHORIZED, http.client.FORBIDDEN) or not _of_hub(url):
        return ''
    if os.environ.get('HF_TOKEN', '').strip():
        return ': the repository does not exist, or the token in HF_TOKEN gives no access to it'
    return ': the repository does not exist, or is private or gated: then set HF_TOKEN to a token with access'


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; Hugging Face sends the SHA-256 of large files in the first of them."""

    digest = ''

    def redirect_request(
        self, request: Any, file: Any, code: int, message: str, headers: Any, url: str
    ) -> Any:
        etag = headers.get('X-Linked-Etag', '').strip('"')
        self.digest = etag if re.fullmatch('[0-9a-f]{64}', etag) else self.digest
        following = super().redirect_request(request, file, code, message, headers, url)
        if following is not None:
            _authorize(following)
        return following


def _blocks(response: Any) -> Iterator[bytes]:
    while block := response.read(_MEBIBYTE):
        yield block


def _stopped(url: str, done: int, total: int | None) -> str:
    return f'{url}: download stopped after {done} of {total or "?"} bytes; run again to resume it'


def _verify(part: Path, digest: str, url: str) -> None:
    found = sha256(part) if digest else ''
    if not found.startswith(digest):
        part.unlink()
        raise InputError(
            f'{url} has sha256 {found[: len(digest)]}, expected {digest}: the file was removed; run again'
        )


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Lock a file that is to be written for one process; the others wait."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(target.with_name(f'{target.name}.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
