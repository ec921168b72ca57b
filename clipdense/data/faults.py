"""What a dataset could not use: counted, logged, and an error once it is too much."""

from __future__ import annotations

import logging
from collections import Counter

import torch
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from clipdense.utils.errors import InputError

_SLOTS = 128  # workers that count apart from each other; beyond it they share
_LOGGED = 10  # lines per cause and process; the totals go on counting


class FaultBudget:
    """Counts what was seen and what was lost, in all workers of a loader, and stops the run past a share.

    The counts lie in shared memory, one row per worker so that nobody overwrites another, and hold for one
    epoch.  A run stops once more than ``grace + max_fraction * seen`` were lost: the grace keeps a few early
    faults from ending it, and a small dataset from ending it at all over one broken file.

    Args:
        noun: what is counted, in the plural: 'images', 'shards'.
        max_fraction: share that may be lost.
        grace: number that may be lost in any case.
    """

    def __init__(self, noun: str, max_fraction: float = 0.01, grace: int = 10) -> None:
        if not 0 <= max_fraction <= 1:
            raise InputError(f'max_bad_fraction is a share between 0 and 1, got {max_fraction}')
        self.noun, self.max_fraction, self.grace = noun, max_fraction, grace
        self._counts = torch.zeros(_SLOTS, 2, dtype=torch.int64).share_memory_()  # seen, lost
        self.causes: Counter[str] = Counter()  # lost by this process, for each cause

    @property
    def seen(self) -> int:
        """Good and bad ones in this epoch so far, over all workers."""
        return int(self._counts[:, 0].sum())

    @property
    def lost(self) -> int:
        """Bad ones in this epoch so far, over all workers."""
        return int(self._counts[:, 1].sum())

    def saw(self, count: int = 1) -> None:
        """Count what is looked at, before it turns out good or bad."""
        self._counts.numpy()[_slot(), 0] += count

    def lose(self, cause: str, where: str) -> None:
        """Count one as lost and log it.

        Args:
            cause: a word or two, the same for faults of one kind.
            where: file, shard or key, and what is wrong with it.

        Raises:
            InputError: this one was too much.
        """
        self._counts.numpy()[_slot(), 1] += 1
        self.causes[cause] += 1
        if self.causes[cause] <= _LOGGED:
            more = '; further ones are counted but not listed' if self.causes[cause] == _LOGGED else ''
            print_log(f'left out ({cause}): {where}{more}', logger='current', level=logging.WARNING)
        lost, seen = self.lost, self.seen
        if lost > self.grace + self.max_fraction * seen:
            raise InputError(
                f'{lost} of {seen} {self.noun} could not be used, the last one ({cause}): {where}. '
                f'Mend the data, or raise max_bad_fraction (now {self.max_fraction:g})'
            )

    def reset(self) -> None:
        """Start a new epoch, with one line about the last one where something was lost."""
        if self.lost:
            # Not a warning, of which MMEngine would drop all but the first that read the same.
            line = f'{self.lost} of {self.seen} {self.noun} could not be used in the last epoch'
            print_log(line, logger='current', level=logging.INFO)
        self._counts.zero_()


def _slot() -> int:
    worker = get_worker_info()
    return 0 if worker is None else worker.id % _SLOTS
