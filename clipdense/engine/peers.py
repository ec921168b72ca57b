"""When one of several processes ends: the others end too, with its reason."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from clipdense.utils.dist import all_gather_object, rank, world_size
from clipdense.utils.errors import InputError, one_line

from .checkpointing import what_remains

_KEY = 'clipdense/ended'
_PATIENCE = timedelta(seconds=10)  # for the reason of a process whose connection was lost
_SIGNS = ('connection', 'gloo', 'nccl', 'timed out', 'broken pipe', 'peer', 'remote process')


@contextlib.contextmanager
def one_fate(work_dir: str | Path) -> Iterator[None]:
    """Tell the other processes why this one ends, and ask them where a connection is lost.

    Raises:
        InputError: another process ended; with its reason, or that it gave none.
    """
    try:
        yield
    except Exception as error:
        if world_size() == 1:
            raise
        if isinstance(error, InputError) or not any(sign in str(error).lower() for sign in _SIGNS):
            _tell(error)
            raise
        raise InputError(f'{_reason()}; {what_remains(work_dir)}') from error


def check_equal_data(facts: dict[str, Any]) -> None:
    """All processes must have as much data, in batches of one size; called by all of them.

    Raises:
        InputError: they differ, with the numbers of each process.
    """
    everyone = all_gather_object(facts)
    for name, first in everyone[0].items():
        found = [one[name] for one in everyone]
        if any(value != first for value in found):
            shown = ', '.join(f'{value} in process {place}' for place, value in enumerate(found[:8]))
            more = ', ...' if len(found) > 8 else ''
            raise InputError(
                f'the processes have different training data: {name} is {shown}{more}; give all of them the '
                'same files and settings'
            )


def share_of_batch(total: Any) -> int:
    """The batch size of one process.

    Args:
        total: samples of a step, in all processes together.

    Raises:
        InputError: it is not a whole number, or not a multiple of the number of processes.
    """
    count = world_size()
    if not isinstance(total, int) or isinstance(total, bool) or total < 1:
        raise InputError(f'parallel.global_batch must be a whole number and at least 1, got {total!r}')
    if total % count:
        below, above = total - total % count, total - total % count + count
        near = f'{below} or {above}' if below else str(above)
        raise InputError(
            f'parallel.global_batch={total} cannot be divided among {count} processes: use {near}, or '
            'another number of processes'
        )
    return total // count


def _tell(error: Exception) -> None:
    """Leave the reason where the other processes find it."""
    reason = one_line(error) if str(error) else type(error).__name__
    with contextlib.suppress(Exception):  # its host may be gone
        _store().set(_KEY, json.dumps({'process': rank(), 'reason': reason}))


def _reason() -> str:
    """Why another process ended."""
    try:
        store = _store()
        store.wait([_KEY], _PATIENCE)
        cause = json.loads(store.get(_KEY))
    except Exception:
        return (
            'another process ended without giving a reason, as one that is killed when the memory is full: '
            'see its own output'
        )
    return f'process {cause["process"]} of {world_size()} ended: {cause["reason"]}'


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()
