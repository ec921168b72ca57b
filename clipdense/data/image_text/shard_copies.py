"""Copies of shards with fewer samples or more members, made in parts that can be interrupted."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from webdataset.tariterators import base_plus_ext

from clipdense.data.faults import FaultBudget
from clipdense.utils.errors import InputError, WriteError
from clipdense.utils.files import atomic_write, digest, explain_write_error
from clipdense.utils.jobs import STATE, Job
from clipdense.utils.json_files import read_json
from clipdense.utils.progress import track

from .shard_files import UNREADABLE, RawPair, UnreadableShard, intact_pairs, open_shard, reason
from .streams import MeteredStream
from .tar_members import MemberInfo, member_limit, sample_key

Extras = Mapping[str, bytes]  # contents of new members of a sample, by their ending
_BLOCK = 1 << 20  # bytes
_DAMAGED = 'damaged'  # folder in the state of a job
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
    job: Job,
    mine: Sequence[tuple[str, Path]],
    what: str,
    work: Callable[[str, Path], str],
    skip: Callable[[Path], None] | None = None,
    max_bad_fraction: float = 0.01,
) -> None:
    """``work(shard, copy)`` for each shard whose copy does not exist yet, ``skip(copy)`` for others.

    As in ``ImageTextShards``, a damaged shard ends where it is damaged, and one that cannot be opened is left
    out; both are noted, see ``damaged_shards``.

    Args:
        job: that is running.
        mine: the shards and their copies.
        what: is done, for the display.
        work: returns where the shard is damaged, or ''; raises ``UnreadableShard`` if it cannot be opened.
        skip: of copies that exist.
        max_bad_fraction: fraction of damaged shards above which the call fails; one may be in any case.

    Raises:
        InputError: too many damaged shards.
    """
    faults = FaultBudget('shards', max_bad_fraction, grace=1 if max_bad_fraction else 0)
    for shard, path in track(mine, what):
        faults.saw()
        if path.exists():
            if skip is not None:
                skip(path)
            continue
        try:
            damage = work(shard, path)
        except UnreadableShard as error:
            damage = str(error)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(f'{shard}: {reason(error)}') from error
        if damage:
            with atomic_write(job.state / _DAMAGED / f'{path.stem}.json', 'w') as file:
                json.dump(f'{shard}: {damage}', file)
            faults.lose('shard', f'{shard}: {damage}')


def damaged_shards(folder: str | Path) -> list[str]:
    """The shards that were damaged for a job, by their names, and where they are."""
    files = sorted((Path(folder) / STATE / _DAMAGED).glob('*.json'))
    return [str(read_json(file)) for file in files]


def copy_shard(
    shard: str, path: Path, captions: Sequence[str], faults: FaultBudget, decide: Decide, all_samples: bool
) -> str:
    """Copy a shard, with new members after those of a sample.

    Args:
        shard: a file or URL.
        path: of the copy.
        captions: members of the captions.
        faults: counts samples without image or caption.
        decide: gets the samples that have both, and returns the new members of each by its key.
        all_samples: copy also samples, and other members, that ``decide`` leaves out.

    Returns:
        Where the shard is damaged; the copy then ends before this sample.  '' if it is not.

    Raises:
        UnreadableShard: it cannot be opened.
        InputError: too many bad samples, a sparse member, or a full disk.
    """
    damage: list[str] = []
    read: set[str] = set()

    def noted(pairs: Iterator[RawPair]) -> Iterator[RawPair]:
        for pair in pairs:
            read.add(pair.key)
            yield pair

    with tempfile.TemporaryFile() as data:  # a shard may come from a command or a server, and is read twice
        _fetch(shard, data, damage)
        data.seek(0)
        stream = MeteredStream(data, path.name)
        found = decide(noted(intact_pairs(stream, captions, faults, damage.append)))
        with (
            atomic_write(path) as file,
            tarfile.open(fileobj=file, mode='w', format=tarfile.PAX_FORMAT) as target,
        ):
            _write(_members(data, read if damage else None), target, found, all_samples)
    return damage[-1] if damage else ''


def _fetch(shard: str, data: Any, damage: list[str]) -> None:
    """Copy the bytes of a shard, decompressed, up to where they are damaged."""
    with open_shard(shard) as stream:
        try:
            while block := stream.read(_BLOCK):
                _store(data, block)
            stream.check_end()
        except InputError:
            raise
        except UNREADABLE as error:
            damage.append(f'damaged at byte {stream.position}: {reason(error)}')


def _store(data: Any, block: bytes) -> None:
    try:
        data.write(block)
    except OSError as error:
        place = Path(tempfile.gettempdir()) / 'shard.tar'
        raise WriteError(explain_write_error(error, place, f'{len(block):,}')) from error


def _write(
    members: Iterable[tuple[tarfile.TarInfo, Any, bool]],
    target: tarfile.TarFile,
    found: Mapping[str, Extras],
    all_samples: bool,
) -> None:
    written: set[str] = set()
    for member, content, ends in members:
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


def _members(data: Any, intact: set[str] | None) -> Iterator[tuple[tarfile.TarInfo, Any, bool]]:
    """Each member, its content if it is a file, and whether it is the last of its sample.

    Args:
        data: the shard.
        intact: keys of the samples that could be read, if it is damaged: the last sample is left out if it is
            not among them.
    """
    data.seek(0)
    members: list[tarfile.TarInfo] = []
    try:
        source = tarfile.open(fileobj=data, tarinfo=MemberInfo)  # noqa: SIM115  # does not own its file
        members.extend(source)
    except UNREADABLE:
        if intact is None:
            raise
    last = sample_key(members[-1].name)[0] if members else None
    if intact is not None and last not in intact:
        members = [member for member in members if sample_key(member.name)[0] != last]
    limit, after = member_limit(), [*members[1:], None]
    for member, following in zip(members, after, strict=False):
        if member.issparse() and member.size > limit:
            raise InputError(f'{member.name} is a sparse file of {member.size / 1e6:.0f} MB; remove it')
        ends = following is None or sample_key(following.name)[0] != sample_key(member.name)[0]
        yield member, source.extractfile(member) if member.isreg() else None, ends
