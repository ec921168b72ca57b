"""Copies of shards with fewer samples or more members, made in parts that can be interrupted."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from webdataset.tariterators import base_plus_ext

from clipdense.data.faults import FaultBudget
from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write, digest
from clipdense.utils.progress import track

from .shard_files import UNREADABLE, MeteredStream, RawPair, read_pairs, reason
from .tar_members import MemberInfo, member_limit, sample_key

Extras = Mapping[str, bytes]  # contents of new members of a sample, by their ending
Decide = Callable[[Iterator[RawPair]], Mapping[str, Extras]]


def with_copies(shards: Sequence[str], folder: str | Path) -> list[tuple[str, Path]]:
    """Each shard and its copy, which is not compressed: named as the shard, or numbered for commands.

    Raises:
        InputError: two shards of one name, or a copy that would overwrite its source.
    """
    names = []
    for index, shard in enumerate(shards):
        name = os.path.basename(shard.partition('?')[0]).removesuffix('.gz').replace('.tgz', '.tar')
        names.append(name if name.endswith('.tar') and ':' not in name else f'{index:06d}.tar')
    if len(set(names)) < len(names):
        raise InputError(
            'several shards have the same file name; write each source folder to its own output folder'
        )
    copies = [(shard, Path(folder) / name) for shard, name in zip(shards, names, strict=True)]
    for shard, copy in copies:
        if copy.exists() and os.path.isfile(shard) and copy.samefile(shard):
            raise InputError(f'the output would overwrite the source {shard}; choose another folder')
    return copies


def sources(shards: Sequence[str]) -> dict[str, Any]:
    """What a job depends on: the number of shards, and a digest of their names and sizes."""
    facts = [
        f'{os.path.basename(shard)} {os.path.getsize(shard) if os.path.isfile(shard) else -1}'
        for shard in shards
    ]
    return {'number of shards': len(shards), 'list of shards': digest(*facts)[:16]}


def each_shard(
    mine: Sequence[tuple[str, Path]],
    what: str,
    work: Callable[[str, Path], None],
    skip: Callable[[Path], None] | None = None,
) -> None:
    """``work(shard, copy)`` for each shard whose copy does not exist yet, ``skip(copy)`` for others.

    Raises:
        InputError: a shard that cannot be read.
    """
    for shard, path in track(mine, what):
        if path.exists():
            if skip is not None:
                skip(path)
            continue
        try:
            work(shard, path)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(f'{shard} cannot be read: {reason(error)}') from error


def copy_shard(
    shard: str, path: Path, captions: Sequence[str], faults: FaultBudget, decide: Decide, all_samples: bool
) -> None:
    """Copy a shard, with new members after those of a sample.

    Args:
        shard: a file or URL.
        path: of the copy.
        captions: members of the captions.
        faults: counts samples without image or caption.
        decide: gets the samples that have both, and returns the new members of each by its key.
        all_samples: copy also samples, and other members, that ``decide`` leaves out.

    Raises:
        InputError: too many bad samples, a sparse member, or a full disk.
        one of ``UNREADABLE``: the shard is damaged.
    """
    with tempfile.TemporaryFile() as data:  # a shard may come from a command or a server, and is read twice
        stream = MeteredStream.open(shard)
        shutil.copyfileobj(stream, data)
        stream.check_end()
        stream.close()
        data.seek(0)
        found = decide(read_pairs(MeteredStream(data, path.name), captions, faults))
        data.seek(0)
        with (
            tarfile.open(fileobj=data, tarinfo=MemberInfo) as source,
            atomic_write(path) as file,
            tarfile.open(fileobj=file, mode='w', format=tarfile.PAX_FORMAT) as target,
        ):
            _write(source, target, found, all_samples)


def _write(
    source: tarfile.TarFile, target: tarfile.TarFile, found: Mapping[str, Extras], all_samples: bool
) -> None:
    written: set[str] = set()
    for member, content, ends in _members(source):
        key = sample_key(member.name)[0]
        known = found.get(key) if key is not None and key not in written else None
        if known is None and not all_samples:
            continue
        if not any(member.name.endswith(f'.{ending}') for ending in known or ()):
            target.addfile(member, content)
        if ends and key is not None and known is not None:
            written.add(key)
            for ending, data in known.items():
                extra = tarfile.TarInfo(f'{base_plus_ext(member.name)[0]}.{ending}')
                extra.size = len(data)
                target.addfile(extra, io.BytesIO(data))


def _members(source: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, Any, bool]]:
    """Each member, its content if it is a file, and whether it is the last of its sample."""
    members, limit = list(source), member_limit()
    for member, following in zip(members, [*members[1:], None], strict=True):
        if member.issparse() and member.size > limit:
            raise InputError(f'{member.name} is a sparse file of {member.size / 1e6:.0f} MB; remove it')
        ends = following is None or sample_key(following.name)[0] != sample_key(member.name)[0]
        yield member, source.extractfile(member) if member.isreg() else None, ends
