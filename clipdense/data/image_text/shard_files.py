"""Tar shards of images and captions: finding them, reading them, telling where one is damaged.

Members that belong together lie side by side under one name: ``000017.jpg``, ``000017.txt`` and, or instead,
``000017.json`` (webdataset's convention, and what img2dataset writes).
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

from .datasets import usable_captions

IMAGE_MEMBERS = ('jpg', 'jpeg', 'png', 'webp')
NOUNS_MEMBER = 'nouns.json'  # words of the captions, see ``noun_prompts``
UNREADABLE = (tarfile.TarError, OSError, EOFError, zlib.error)  # what a damaged shard raises

_SUFFIXES = ('.tar', '.tar.gz', '.tgz')
_BLOCK = 512  # bytes; a tar ends with blocks of zeros


class RawPair(NamedTuple):
    """A sample as it lies in a shard."""

    name: str  # shard and key
    image: bytes  # an encoded image
    captions: list[str]  # at least one
    turn: int  # how often its shards had been gone through in the epoch
    nouns: dict[str, Any] | None = None  # words of the captions, where the shard keeps them


class MeteredStream:
    """What tar readers need of a file, unpacked, and a memory of how far it was read and how it ended.

    Python's tar reader takes a shard that stops between two members, or goes on with rubbish, for complete.

    Args:
        file: has ``read`` and ``close``.
        url: its name; '.gz' and '.tgz' are unpacked.
    """

    def __init__(self, file: Any, url: str) -> None:
        self.url, self.position = url, 0
        self._file = file
        self._source = gzip.GzipFile(fileobj=file) if url.endswith(('.gz', '.tgz')) else file
        self._is_tar, self._tail = False, b''

    def read(self, size: int = -1) -> bytes:
        """The next bytes, unpacked."""
        data = self._source.read(size)
        if not self.position:
            self._is_tar = data[257:262] == b'ustar'
        self.position += len(data)
        self._tail = (self._tail + data)[-_BLOCK:]
        return data

    def check_end(self) -> None:
        """After the last member.

        Raises:
            tarfile.ReadError: what was read does not end with the end-of-archive mark.
        """
        if self._is_tar and self._tail.strip(b'\0'):
            raise tarfile.ReadError('no end-of-archive mark, members may be missing')

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_pairs(
    stream: MeteredStream, captions: Sequence[str], faults: FaultBudget, turn: int = 0
) -> Iterator[RawPair]:
    """The samples of one shard that have an image and a caption; others are counted and left out.

    Args:
        stream: the shard.
        captions: 'txt', 'json:FIELD' or both, in this order.
        faults: where samples are counted.
        turn: passed on.

    Raises:
        InputError: too many samples were lost.
        tarfile.ReadError, OSError, EOFError, zlib.error: the shard is damaged.
    """

    def lose(cause: str, what: str) -> bool:
        faults.lose(cause, f'{stream.url}, {what}')
        return True  # webdataset goes on

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
    """What went wrong with a shard, without what webdataset adds."""
    return getattr(error, 'strerror', None) or str(error.args[0]).partition(' @ ')[0]


def list_shards(urls: str | Path | Sequence[str | Path]) -> list[str]:
    """Shards that paths with braces or wildcards, folders and URLs stand for, sorted within each.

    Raises:
        InputError: none, a file that is not there, or a kind of URL that cannot be opened.
    """
    parts = [urls] if isinstance(urls, str | Path) else urls
    shards = [shard for part in parts for shard in _expand(str(part))]
    missing = [shard for shard in shards if not _is_url(shard) and not os.path.isfile(shard)]
    if missing:
        more = f' and {len(missing) - 1} more of {len(shards)}' if len(missing) > 1 else ''
        folder = os.path.dirname(missing[0]) or '.'
        siblings = os.listdir(folder) if os.path.isdir(folder) else []
        hint = nearest(os.path.basename(missing[0]), siblings)
        raise InputError(f'shard {missing[0]}{more} is not there.{hint}')
    if not shards:
        raise InputError('no shards named: give a path with braces or wildcards, a folder, or a list')
    return shards


def _expand(part: str) -> Iterator[str]:
    if os.path.isfile(part):  # also where its name looks like a pattern
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
            raise InputError(f'no shards in {url} (endings looked for: {" ".join(_SUFFIXES)})')
        yield from found


def _is_url(url: str) -> bool:
    scheme, colon, _ = url.partition(':')
    if not colon or os.sep in scheme:
        return False
    if scheme != 'file' and scheme not in gopen_schemes:
        raise InputError(f'{url}: shards are opened from {", ".join(["file", *gopen_schemes])}, not {scheme}')
    return True


def _nouns(sample: Mapping[str, bytes]) -> dict[str, Any] | None:
    """What the shard keeps; None where it keeps nothing that can be read."""
    try:
        record = json.loads(sample.get(NOUNS_MEMBER, b'null'))
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get('nouns'), dict) else None


def _caption_candidates(sample: Mapping[str, bytes], captions: Sequence[str]) -> Iterator[Any]:
    """Texts, or what stands in their place.

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
