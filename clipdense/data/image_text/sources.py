"""Sources of image-text shards, one or several that are mixed by weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from clipdense.utils.errors import InputError, refuse_unknown

from .shard_files import caption_members, list_shards


@dataclass(frozen=True)
class ShardSource:
    """One of several sources of shards.

    Args:
        urls: as in ``ImageTextShards``.
        weight: the share of the samples, relative to the weights of the other sources.
        caption: source of captions; that of the dataset by default.
    """

    urls: str | Path | Sequence[str | Path]
    weight: float = 1.0
    caption: str | Sequence[str] | None = None


class Source(NamedTuple):
    """A source that is ready to be read; the only one may have no name."""

    name: str
    shards: list[str]
    captions: list[str]
    weight: float

    @property
    def prefix(self) -> str:
        """The start of messages."""
        return f'source {self.name!r}: ' if self.name else ''

    @property
    def seed(self) -> str:
        """The start of seeds."""
        return f'{self.name}/' if self.name else ''


def read_sources(urls: Any, caption: str | Sequence[str]) -> list[Source]:
    """The sources of a dataset.

    Args:
        urls: of one source, or a ``ShardSource``, its settings or its urls by the name of each source.
        caption: of sources that do not set it.

    Raises:
        InputError: no source; unknown or missing settings, a weight that is not positive, a shard that two
            sources read for the same captions, or as ``list_shards``, with the name of the source.
    """
    if not isinstance(urls, Mapping):
        return [Source('', list_shards(urls), caption_members(caption), 1.0)]
    if not urls:
        raise InputError('urls has no sources: give at least one, name=dict(urls=...)')
    found = []
    for name, given in urls.items():
        if not isinstance(name, str) or not name or '/' in name:
            raise InputError(f'the name of a source must be a text without "/", got {name!r}')
        found.append(_read(name, _settings(name, given), caption))
    _refuse_shared(found)
    return found


def mixture_text(sources: Sequence[Source]) -> str:
    """What is mixed, for checkpoints and messages; '' without a mixture."""
    if len(sources) < 2:
        return ''
    return ', '.join(f'{one.name} {one.weight:g} ({len(one.shards)} shards)' for one in sources)


def _settings(name: str, given: Any) -> ShardSource:
    if isinstance(given, ShardSource):
        return given
    if isinstance(given, str | Path | list | tuple):
        return ShardSource(given)
    if not isinstance(given, Mapping):
        raise InputError(f'source {name!r} must be shards or dict(urls=..., weight=...), got {given!r}')
    refuse_unknown(given, [one.name for one in fields(ShardSource)], f'source {name!r} has no setting')
    if 'urls' not in given:
        raise InputError(f'source {name!r} has no urls')
    return ShardSource(**given)


def _read(name: str, given: ShardSource, caption: str | Sequence[str]) -> Source:
    weight = given.weight
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < inf:
        raise InputError(
            f'the weight of source {name!r} must be a positive number, got {weight!r}; remove a source '
            'that is not wanted'
        )
    try:
        captions = caption_members(caption if given.caption is None else given.caption)
        return Source(name, list_shards(given.urls), captions, float(weight))
    except InputError as error:
        raise InputError(f'source {name!r}: {error}') from error


def _refuse_shared(sources: Sequence[Source]) -> None:
    """A shard may be in two sources for different captions only; else weights would be misleading."""
    owners: dict[tuple[str, str], str] = {}
    for source in sources:
        for shard in source.shards:
            for caption in source.captions:
                owner = owners.setdefault((shard, caption), source.name)
                if owner != source.name:
                    raise InputError(
                        f'sources {owner!r} and {source.name!r} both have {shard} with the captions '
                        f'{caption!r}; give it once, and raise the weight of its source'
                    )
