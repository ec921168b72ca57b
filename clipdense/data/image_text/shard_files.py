"""Tar shards of images and captions: listing, reading and error positions.

Members of a sample are adjacent and have one name: ``000017.jpg``, ``000017.txt`` and, or instead,
``000017.json`` (webdataset's convention, also used by img2dataset).
"""

from __future__ import annotations

import glob
import lzma
import math
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys

from clipdense.data.faults import FaultBudget
from clipdense.data.text_tables import LONGEST_LINE
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import special_file
from clipdense.utils.jobs import refuse_incomplete
from clipdense.utils.json_files import parse_json

from .entries import usable_captions
from .streams import MeteredStream, expand_remote, scheme_of
from .tar_members import Unusable, sample_key, tar_members

IMAGE_MEMBERS = ('jpg', 'jpeg', 'png', 'webp')
NOUNS_MEMBER = 'nouns.json'  # nouns of the captions, see ``noun_prompts``
FILTER_MEMBER = 'filter.json'  # where a sample comes from, see ``filtering``
SYNTHETIC_MEMBER = 'synthetic.json'  # a caption by a model, see ``inference.shard_captions``
# Errors of damaged shards; ``InputError``, which is a ValueError, has to be handled first.
UNREADABLE = (
    *(tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, ArithmeticError),
    *(IndexError, MemoryError, RecursionError),
)

_SUFFIXES = ('.tar', '.tar.gz', '.tgz')
_RANGE = re.compile(r'\{(\d+)\.\.(\d+)\}')
_MOST = 1_000_000  # shards of a pattern


class RawPair(NamedTuple):
    """An undecoded sample of a shard."""

    name: str  # shard and key
    image: bytes  # an encoded image
    captions: list[str]  # at least one, if captions are read
    turn: int  # number of earlier passes over the shards in this epoch
    nouns: dict[str, Any] | None = None  # nouns of the captions, if stored in the shard
    source: str = ''  # shard and key of the sample that it was copied from, if stored in the shard
    members: tuple[str, ...] = ()  # the source of each caption, as the reader was asked for it
    synthetic: bool = False  # whether the shard has a caption by a model for it
    synthetic_score: float | None = None  # of that caption, if stored: its mean log probability

    @property
    def key(self) -> str:
        """Of the sample in its shard."""
        return self.name.partition('/')[2]


class UnreadableShard(InputError):
    """A shard that cannot be opened."""


@contextmanager
def open_shard(url: str) -> Iterator[MeteredStream]:
    """A shard, which is closed afterwards.

    Raises:
        UnreadableShard: it cannot be opened.
        MissingPackage: a package for its URL is not installed.
    """
    try:
        stream = MeteredStream.open(url)
    except InputError:
        raise
    except UNREADABLE as error:
        raise UnreadableShard(f'cannot be opened: {reason(error)}') from error
    try:
        yield stream
    finally:
        with suppress(OSError):  # a failed command or download was noticed when it was read
            stream.close()


def read_pairs(
    stream: MeteredStream, captions: Sequence[str], faults: FaultBudget, turn: int = 0
) -> Iterator[RawPair]:
    """The samples of one shard that have an image and a caption; others are counted and skipped.

    Args:
        stream: the shard.
        captions: 'txt', 'json:FIELD' or both, in this order; none to read images without captions.
        faults: counter of samples.
        turn: see ``RawPair``.

    Raises:
        InputError: too many samples were lost.
        one of ``UNREADABLE``: the shard is damaged.
    """

    def lose(cause: str, what: str) -> bool:
        faults.lose(cause, f'{stream.url}, {what}')
        return True  # webdataset continues

    shard, seen = os.path.basename(stream.url), set()
    wanted = {
        *IMAGE_MEMBERS,
        NOUNS_MEMBER,
        FILTER_MEMBER,
        SYNTHETIC_MEMBER,
        *(caption.partition(':')[0] for caption in captions),
    }
    for sample in group_by_keys(
        tar_members(stream, stream.url, wanted),
        keys=sample_key,
        handler=lambda error: lose('duplicate member', str(error.args[0])),
    ):
        faults.saw()
        key = sample['__key__']
        image = next((sample[member] for member in IMAGE_MEMBERS if member in sample), None)
        texts, members, cause = _captions_of(sample, captions)
        if key in seen:
            lose('duplicate key', f'sample {key}')
        elif isinstance(image, Unusable):
            lose(image.cause, f'the image of sample {key}')
        elif image is None:
            lose('no image', f'sample {key}, which has {_listed(sample)}')
        elif captions and not texts:
            lose(
                cause,
                f'sample {key}, which has {_listed(sample)}' if cause == 'no caption' else f'sample {key}',
            )
        else:
            seen.add(key)
            record = _record(sample, NOUNS_MEMBER, 'nouns', dict)
            source = _record(sample, FILTER_MEMBER, 'source', str)
            place, synthetic = source['source'] if source else '', SYNTHETIC_MEMBER in sample
            written = _record(sample, SYNTHETIC_MEMBER, 'score', (int, float))
            score = written['score'] if written else None
            yield RawPair(f'{shard}/{key}', image, texts, turn, record, place, members, synthetic, score)


def intact_pairs(
    stream: MeteredStream,
    captions: Sequence[str],
    faults: FaultBudget,
    damaged: Callable[[str], object],
    turn: int = 0,
) -> Iterator[RawPair]:
    """As ``read_pairs``, up to where the shard is damaged, which ``damaged`` gets as a text.

    Raises:
        InputError: too many samples were lost.
    """
    last = None
    try:
        for pair in read_pairs(stream, captions, faults, turn):
            last = pair.name
            yield pair
        stream.check_end()
    except InputError:
        raise
    except UNREADABLE as error:
        after = f', after sample {last}' if last else ''
        damaged(f'damaged at byte {stream.position}{after}: {reason(error)}')


def caption_members(captions: str | Sequence[str]) -> list[str]:
    """The sources of captions, as a list.

    Raises:
        InputError: no source, 'json' without a field, or a field of something else.
    """
    sources = [captions] if isinstance(captions, str) else list(captions)
    for source in sources:
        member, colon, field = source.partition(':') if isinstance(source, str) else ('', '', '')
        if not member or (member.rpartition('.')[2] == 'json') != bool(field) or (colon and not field):
            raise InputError(
                f"caption={source!r} is not a source of captions; use 'txt' for the member .txt, or "
                "'json:FIELD' for a field of the member .json"
            )
    if not sources:
        raise InputError("no source of captions given; pass 'txt' or 'json:FIELD'")
    return sources


def reason(error: Exception) -> str:
    """The message of an error in a shard, without webdataset's additions."""
    said = getattr(error, 'strerror', None) or (str(error.args[0]) if error.args else '')
    return said.partition(' @ ')[0] or type(error).__name__


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
        if kind := special_file(missing[0]):
            raise InputError(f'shard {missing[0]}{more} is {kind}, not a regular file')
        if os.path.islink(missing[0]):
            raise InputError(
                f'shard {missing[0]}{more} is a link to {os.readlink(missing[0])}, which does not exist'
            )
        siblings = os.listdir(folder) if os.path.isdir(folder) else []
        hint = nearest(os.path.basename(missing[0]), siblings)
        raise InputError(f'shard {missing[0]}{more} does not exist.{hint}')
    for folder in {os.path.dirname(shard) or '.' for shard in shards if not _is_url(shard)}:
        refuse_incomplete(folder)
    if not shards:
        raise InputError('no shards given; pass a path with braces or wildcards, a folder, or a list')
    return shards


def _expand(part: str) -> Iterator[str]:
    if os.path.isfile(part):  # even if its name looks like a pattern
        yield part
        return
    try:
        if (count := _ranged(part)) > _MOST:
            raise InputError(f'{part!r} names {count:,} shards; at most {_MOST:,} are read: check the range')
        urls = expand_urls(part)
    except InputError:
        raise
    except (ValueError, AssertionError) as error:  # unbalanced braces, an unset environment variable
        raise InputError(f'{part!r} cannot be expanded: {error}') from error
    for url in urls:
        if not _is_url(url) and os.path.isdir(url):
            found = sorted(os.path.join(url, name) for name in os.listdir(url) if name.endswith(_SUFFIXES))
        elif not _is_url(url) and glob.has_magic(url):
            found = sorted(glob.glob(url, recursive=True))
        else:
            found = expand_remote(url)
        if not found:
            raise InputError(f'no shards in {url}; supported file endings are {" ".join(_SUFFIXES)}')
        yield from found


def _ranged(part: str) -> int:
    """Number of paths that the ranges of a pattern stand for."""
    ranges = [(int(first), int(last)) for first, last in _RANGE.findall(part)]
    return math.prod(abs(last - first) + 1 for first, last in ranges)


def _is_url(url: str) -> bool:
    return bool(scheme_of(url))


def _listed(sample: Mapping[str, Any]) -> str:
    """The members of a sample, for messages."""
    return ' '.join(f'.{name}' for name in sample if not name.startswith('__'))


def _record(sample: Mapping[str, Any], member: str, field: str, kind: Any) -> dict[str, Any] | None:
    """The record in a member of a sample; None if there is none with this field, or it cannot be read."""
    content = sample.get(member)
    if not isinstance(content, bytes):
        return None
    try:
        record = parse_json(content, member)
    except InputError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get(field), kind) else None


def _captions_of(
    sample: Mapping[str, Any], captions: Sequence[str]
) -> tuple[list[str], tuple[str, ...], str]:
    """The usable captions of a sample, and the source of each; and the reason, if there are none."""
    cause = 'no caption'
    texts: list[str] = []
    members: list[str] = []
    for caption in captions:
        member, _, field = caption.partition(':')
        content = sample.get(member)
        candidates: list[Any] = []
        if isinstance(content, Unusable):
            cause = content.cause
        elif content is not None and field:
            try:
                record = parse_json(content, f'{member} member')
            except InputError:
                cause = 'caption is not JSON'
                continue
            value = record.get(field) if isinstance(record, dict) else None
            candidates = value if isinstance(value, list) else [value]
        elif content is not None and len(content) > LONGEST_LINE:
            cause = f'caption of more than {LONGEST_LINE} bytes'
        elif content is not None:
            try:
                candidates = [content.decode('utf-8-sig')]
            except UnicodeDecodeError:
                cause = 'caption is not UTF-8'
        found = usable_captions(candidates)
        texts, members = [*texts, *found], [*members, *[caption] * len(found)]
    return texts, tuple(members), cause
