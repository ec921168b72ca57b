"""Unusable samples of a dataset: counted, logged, and an error above a limit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from clipdense.utils.dist import all_gather_object
from clipdense.utils.errors import InputError

_SLOTS = 128  # workers with a counter of their own; more workers share them
_GRACE = 10  # early faults, and single faults of a small dataset
_LOGGED = 10  # logged lines per cause and process; all are counted


class FaultBudget:
    """Counts used and unusable samples in all workers of a loader, and stops the run above a fraction.

    The counts are in shared memory, one row per worker to avoid races, and are reset in each
    epoch.  A run stops when more than ``grace + max_fraction * seen`` were lost: ``grace`` allows a few early
    faults, and single faults in a small dataset.

    Args:
        noun: plural noun for messages: 'images', 'shards'.
        max_fraction: fraction that may be lost.
        grace: number that may be lost in any case.  By default 10, or none if the fraction is 0.
        log: whether the first ones and their number are logged.

    Attributes:
        causes: lost in this process, by cause.
        last: where the last one was lost; '' if none was.
    """

    def __init__(
        self, noun: str, max_fraction: float = 0.01, grace: int | None = None, log: bool = True
    ) -> None:
        if not isinstance(max_fraction, int | float) or not 0 <= max_fraction <= 1:
            raise InputError(f'max_bad_fraction must be between 0 and 1, got {max_fraction!r}')
        self.noun, self.max_fraction, self.log = noun, max_fraction, log
        self.grace = (_GRACE if max_fraction else 0) if grace is None else grace
        self._counts = torch.zeros(_SLOTS, 2, dtype=torch.int64).share_memory_()  # seen, lost
        self.causes: Counter[str] = Counter()
        self.last = ''

    @property
    def seen(self) -> int:
        """Number of samples in this epoch so far, over all workers."""
        return int(self._counts[:, 0].sum())

    @property
    def lost(self) -> int:
        """Number of unusable samples in this epoch so far, over all workers."""
        return int(self._counts[:, 1].sum())

    def saw(self, count: int = 1) -> None:
        """Count samples before they are read."""
        self._counts.numpy()[_slot(), 0] += count

    def lose(self, cause: str, where: str) -> None:
        """Count one sample as lost and log it.

        Args:
            cause: short text, the same for faults of one kind.
            where: file, shard or key, and the error.

        Raises:
            InputError: the limit is exceeded.
        """
        where = where.encode('utf-8', 'backslashreplace').decode()  # names of files may be other bytes
        self._counts.numpy()[_slot(), 1] += 1
        self.causes[cause] += 1
        self.last = f'{where} ({cause})'
        if self.log and self.causes[cause] <= _LOGGED:
            more = '; further ones are counted but not logged' if self.causes[cause] == _LOGGED else ''
            print_log(f'skipped ({cause}): {where}{more}', logger='current', level=logging.WARNING)
        lost, seen = self.lost, self.seen
        if lost > self.grace + self.max_fraction * seen:
            raise InputError(
                f'{lost} of {seen} {self.noun} could not be used, the last one ({cause}): {where}. '
                f'Fix the data, or raise max_bad_fraction (now {self.max_fraction:g})'
            )

    def reset(self) -> None:
        """Start a new epoch; log the number of lost samples of the last one."""
        self.summarize([(self.lost, self.seen)])
        self.forget()

    def forget(self) -> None:
        """Set the counts to zero."""
        self._counts.zero_()

    def summarize(self, counts: Sequence[tuple[int, int]], place: str = 'the last epoch') -> None:
        """Log the sums of (lost, seen) of one or several processes, if anything was lost."""
        lost, seen = (sum(column) for column in zip(*counts, strict=True))
        if lost and self.log:
            # Not a warning: MMEngine drops repeated warnings.
            line = f'{lost} of {seen} {self.noun} could not be used in {place}'
            print_log(line, logger='current', level=logging.INFO)


def report_faults(dataset: Any) -> None:
    """Log what all processes together lost in the epoch that ends now, and start the counts anew.

    Called by all processes, after their workers have ended.
    """
    budgets: list[FaultBudget] = []
    while dataset is not None:  # a dataset may wrap another
        budgets += [value for value in vars(dataset).values() if isinstance(value, FaultBudget)]
        dataset = vars(dataset).get('dataset')
    if not budgets:
        return
    everyone = all_gather_object([(budget.lost, budget.seen) for budget in budgets])
    for budget, *counts in zip(budgets, *everyone, strict=True):
        budget.summarize(counts)
        budget.forget()


def _slot() -> int:
    worker = get_worker_info()
    return 0 if worker is None else worker.id % _SLOTS
