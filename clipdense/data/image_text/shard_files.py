"""Tar shards of images and captions: listing, reading and error positions.

Members of a sample are adjacent and have one name: ``000017.jpg``, ``000017.txt`` and, or instead,
``000017.json`` (webdataset's convention, also used by img2dataset).
"""

from __future__ import annotations

import glob
import gzip
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from webdataset.gopen import gopen_schemes
from webdataset.handlers import reraise_exception
from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys, tar_file_expander

from clipdense.data.faults import FaultBudget
from clipdense.utils.errors import InputError, nearest

from .entries import usable_captions

IMAGE_MEMBERS = ('jpg', 'jpeg', 'png', 'webp')
NOUNS_MEMBER = 'nouns.json'  # nouns of the captions, see ``noun_prompts``
UNREADABLE = (tarfile.TarError, OSError, EOFError, zlib.error)  # errors of damaged shards

_SUFFIXES = ('.tar', '.tar.gz', '.tgz')
_BLOCK = 512  # bytes; a tar ends with blocks of zeros


class RawPair(NamedTuple):
    """An undecoded sample of a shard."""

    name: str  # shard and key
    image: bytes  # an encoded image
    captions: list[str]  # at least one
    turn: int  # number of earlier passes over the shards in this epoch
    nouns: dict[str, Any] | None = None  # nouns of the captions, if stored in the shard


class MeteredStream:
    """A decompressed file for tar readers that records the position and the last bytes.

    Python's tar reader accepts a shard that is truncated between two members or continues with garbage.

    Args:
        file: has ``read`` and ``close``.
        url: its name; '.gz' and '.tgz' are decompressed.
    """

    def __init__(self, file: Any, url: str) -> None:
        self.url, self.position = url, 0
        self._file = file
        self._source = gzip.GzipFile(fileobj=file) if url.endswith(('.gz', '.tgz')) else file
        self._is_tar, self._tail = False, b''

    def read(self, size: int = -1) -> bytes:
        """The next bytes, decompressed."""
        data = self._source.read(size)
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


def read_pairs(
    stream: MeteredStream, captions: Sequence[str], faults: FaultBudget, turn: int = 0
) -> Iterator[RawPair]:
    """The samples of one shard that have an image and a caption; others are counted and skipped.

    Args:
        stream: the shard.
        captions: 'txt', 'json:FIELD' or both, in this order.
        faults: counter of samples.
        turn: see ``RawPair``.

    Raises:
        InputError: too many samples were lost.
        tarfile.ReadError, OSError, EOFError, zlib.error: the shard is damaged.
    """

    def lose(cause: str, what: str) -> bool:
        faults.lose(cause, f'{stream.url}, {what}')
        return True  # webdataset continues

    shard, seen = os.path.basename(stream.url), set()
    members = tar_file_expander([{'url': stream.url, 'stream': stream}], handler=reraise_exception)
    for sample in group_by_keys(members, handler=lambda error: lose('duplicate member', str(error.args[0]))):
        faults.saw()
        key = sample['__key__']
        image = next((sample[member] for member in IMAGE_MEMBERS if member in sample), None)
        try:
            texts, cause = usable_captions(_caption_candidates(sample, captions)), 'no caption'
        except UnicodeDecodeError:
            texts, cause = [], 'caption is not UTF-8'
        except ValueError:
            texts, cause = [], 'caption is not JSON'
        if key in seen:
            lose('duplicate key', f'sample {key}')
        elif image is None:
            lose('no image', f'sample {key}')
        elif not texts:
            lose(cause, f'sample {key}')
        else:
            seen.add(key)
            yield RawPair(f'{shard}/{key}', image, texts, turn, _nouns(sample))


def reason(error: Exception) -> str:
    """The message of an error in a shard, without webdataset's additions."""
    return getattr(error, 'strerror', None) or str(error.args[0]).partition(' @ ')[0]


def list_shards(urls: str | Path | Sequence[str | Path]) -> list[str]:
    """Expand paths with braces or wildcards, folders and URLs to shards, sorted within each.

    Raises:
        InputError: no shards, a missing file, or an unsupported kind of URL.
    """
    parts = [urls] if isinstance(urls, str | Path) else urls
    shards = [shard for part in parts for shard in _expand(str(part))]
    missing = [shard for shard in shards if not _is_url(shard) and not os.path.isfile(shard)]
    if missing:
        more = f' and {len(missing) - 1} more of {len(shards)}' if len(missing) > 1 else ''
        folder = os.path.dirname(missing[0]) or '.'
        siblings = os.listdir(folder) if os.path.isdir(folder) else []
        hint = nearest(os.path.basename(missing[0]), siblings)
        raise InputError(f'shard {missing[0]}{more} does not exist.{hint}')
    if not shards:
        raise InputError('no shards given; pass a path with braces or wildcards, a folder, or a list')
    return shards


def _expand(part: str) -> Iterator[str]:
    if os.path.isfile(part):  # even if its name looks like a pattern
        yield part
        return
    try:
        urls = expand_urls(part)
    except (ValueError, AssertionError) as error:  # unbalanced braces, an unset environment variable
        raise InputError(f'{part!r} cannot be expanded: {error}') from error
    for url in urls:
        if not _is_url(url) and os.path.isdir(url):
            found = sorted(os.path.join(url, name) for name in os.listdir(url) if name.endswith(_SUFFIXES))
        elif not _is_url(url) and glob.has_magic(url):
            found = sorted(glob.glob(url, recursive=True))
        else:
            found = [url]
        if not found:
            raise InputError(f'no shards in {url}; supported file endings are {" ".join(_SUFFIXES)}')
        yield from found


def _is_url(url: str) -> bool:
    scheme, colon, _ = url.partition(':')
    if not colon or os.sep in scheme:
        return False
    if scheme != 'file' and scheme not in gopen_schemes:
        known = ['file', *(name for name in gopen_schemes if name.isalnum())]
        raise InputError(f'{url}: unsupported URL scheme {scheme}; use {", ".join(known)}')
    return True


def _nouns(sample: Mapping[str, bytes]) -> dict[str, Any] | None:
    """The record of a sample; None if there is none or it cannot be read."""
    try:
        record = json.loads(sample.get(NOUNS_MEMBER, b'null'))
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get('nouns'), dict) else None


def _caption_candidates(sample: Mapping[str, bytes], captions: Sequence[str]) -> Iterator[Any]:
    """Captions, or other values found in their place.

    Raises:
        UnicodeDecodeError: bytes that are not UTF-8.
        ValueError: not JSON.
    """
    for caption in captions:
        member, _, field = caption.partition(':')
        content = sample.get(member)
        if content is None:
            continue
        if not field:
            yield content.decode('utf-8')
            continue
        record = json.loads(content)
        value = record.get(field) if isinstance(record, dict) else None
        yield from value if isinstance(value, list) else [value]
