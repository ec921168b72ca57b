"""Members of tar archives, with bounded memory: nothing is allocated because a header says so."""

from __future__ import annotations

import os
import tarfile
import unicodedata
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any, NamedTuple

from webdataset.tariterators import base_plus_ext

from clipdense.utils.errors import InputError

_VARIABLE = 'CLIPDENSE_MAX_MEMBER_MB'
_DEFAULT_MEGABYTES = 256
_LONGEST_HEADER = 1 << 20  # bytes of a long name or of a PAX header
_CHUNK = 1 << 20
_HEADERS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)


class Unusable(NamedTuple):
    """A member that is not read."""

    cause: str


class MemberInfo(tarfile.TarInfo):
    """A member whose header is checked before anything is read that it announces."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> MemberInfo:
        """Read a header block.

        Raises:
            tarfile.ReadError: a negative size, or a very long name.
        """
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _HEADERS and info.size > _LONGEST_HEADER):
            raise tarfile.ReadError(f'a header announces {info.size} bytes')
        return info


def tar_members(stream: Any, url: str, wanted: Collection[str]) -> Iterator[dict[str, Any]]:
    """Name and content of each member but folders, as webdataset's ``group_by_keys`` takes them.

    The content is ``bytes``; ``Unusable`` for links, devices, named pipes, and members that are larger than
    ``$CLIPDENSE_MAX_MEMBER_MB`` megabytes (by default 256); and empty for members that are not wanted.

    Args:
        stream: has ``read``.
        url: its name.
        wanted: endings of the members to read.

    Raises:
        tarfile.TarError and others: the archive is damaged.
    """
    limit = member_limit()
    with tarfile.open(fileobj=stream, mode='r|*', tarinfo=MemberInfo) as archive:
        for info in archive:
            key, kind = sample_key(info.name)
            if key is not None and not info.isdir() and not _is_meta(info.name):
                data = _content(archive, info, limit) if kind.lower() in wanted else b''
                yield {'fname': info.name, 'data': data, '__url__': url}
            archive.members = []  # type: ignore[attr-defined]  # keeps the memory of long archives bounded
    yield {}  # ends the last sample


def sample_key(name: str) -> tuple[str | None, str]:
    """Key and ending of a member: split at the first dot; NFC; bytes that are not UTF-8 are escaped."""
    readable = name.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
    key, kind = base_plus_ext(unicodedata.normalize('NFC', readable))
    return key, kind or ''


def member_limit() -> int:
    """Largest size of a member that is read, in bytes.

    Raises:
        InputError: the environment variable is not a positive number.
    """
    given = os.environ.get(_VARIABLE, '')
    try:
        megabytes = float(given or _DEFAULT_MEGABYTES)
    except ValueError:
        megabytes = 0.0
    if not 0 < megabytes < 1e9:
        raise InputError(f'{_VARIABLE} must be a number of megabytes such as 500, got {given!r}')
    return int(megabytes * 1_000_000)


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo, limit: int) -> bytes | Unusable:
    if not info.isreg():
        return Unusable('a link' if info.issym() or info.islnk() else 'not a regular file')
    if info.size > limit:
        return Unusable(f'more than {limit / 1e6:.0f} MB, the limit of {_VARIABLE}')
    file = archive.extractfile(info)
    assert file is not None  # of a regular file
    try:
        return b''.join(iter(partial(file.read, _CHUNK), b''))
    except MemoryError:
        return Unusable('too large for the memory')


def _is_meta(name: str) -> bool:
    """webdataset reserves members and folders with such names."""
    first = name.split('/')[0]
    return first.startswith('__') and first.endswith('__')
