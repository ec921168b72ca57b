"""Exact resuming: random states, position in the data, and stop signals.

P: processes, S: samples of the dataset.
"""

from __future__ import annotations

import contextlib
import logging
import random
import signal
from collections.abc import Iterator, Sized
from dataclasses import asdict, dataclass, replace
from types import FrameType
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler

from clipdense.utils.dist import rank, world_size
from clipdense.utils.errors import InputError

_WORKER_GRACE = 20  # seconds that a data worker continues after SIGTERM


@dataclass(frozen=True)
class Position:
    """Position of a run.

    Args:
        step: finished training steps.
        epoch: the current epoch, from 0.
        batches: finished batches of that epoch, in each process.
        batch_size: samples of one batch of one process.
        processes: P.
        num_workers: data workers of each process.
        dataset_size: samples of the dataset, or shards of a stream; 0 if unknown.
        mixture: what a stream mixes, as a text; '' for one source.
    """

    step: int = 0
    epoch: int = 0
    batches: int = 0
    batch_size: int = 1
    processes: int = 1
    num_workers: int = 0
    dataset_size: int = 0
    mixture: str = ''

    @property
    def samples(self) -> int:
        """Samples of this epoch that all processes together have used."""
        return self.batches * self.batch_size * self.processes

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the checkpoint."""
        return {name: value for name, value in asdict(self).items() if value != ''}


def random_state() -> dict[str, Any]:
    """States of the python, numpy, torch and current CUDA generator of this process, as plain data."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 - the global generator is meant
    name, key, *rest = numpy_state
    return {
        'python': random.getstate(),
        'numpy': (name, torch.from_numpy(key.astype(np.int64)), *rest),
        **torch_random_state(),
    }


def torch_random_state() -> dict[str, Tensor]:
    """The part of ``random_state`` that dropout uses."""
    state = {'torch': torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the states of ``random_state`` or ``torch_random_state``."""
    if 'python' in state:
        version, internal, gauss = state['python']
        random.setstate((version, tuple(internal), gauss))
    if 'numpy' in state:
        name, key, place, has_gauss, gauss = state['numpy']
        key = key.numpy().astype(np.uint32)
        np.random.set_state((name, key, place, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the states of all random generators afterwards."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


class ResumableSampler(Sampler[int]):
    """Indices of one process, in an order that depends on seed and epoch only, from any sample on.

    Every process gets the same number; the up to P - 1 dropped samples differ in each epoch.
    Process r takes the samples r, r + P, ... of the epoch's order, so that the first k batches of all
    processes are the first k * P * batch_size samples for any P.

    Args:
        dataset: any object with a length.
        shuffle: a new order in each epoch; otherwise the dataset's own order.
        seed: of the run; the same in all processes.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.shuffle = shuffle
        self.seed = seed or 0
        self.epoch, self.start = 0, 0
        self._dataset = dataset

    def set_position(self, epoch: int, samples: int = 0) -> None:
        """Continue in ``epoch`` after its first ``samples`` samples (of all processes together)."""
        self.epoch, self.start = epoch, samples

    def set_epoch(self, epoch: int) -> None:
        """Start ``epoch`` from its beginning."""
        self.set_position(epoch)

    def __iter__(self) -> Iterator[int]:
        total = len(self._dataset)
        if self.shuffle:
            order = torch.randperm(total, generator=_generator(self.seed, self.epoch))
        else:
            order = torch.arange(total)
        even = order[: total - total % world_size()]
        return iter(even[self.start + rank() :: world_size()].tolist())

    def __len__(self) -> int:
        """Indices of a whole epoch of this process, independent of the position."""
        return len(self._dataset) // world_size()


def _generator(seed: int, epoch: int, stream: int = 0) -> torch.Generator:
    """A separate generator for each (seed, epoch, stream)."""
    numbers = np.random.SeedSequence((seed, epoch, stream)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(numbers[0] >> 1))


def place_loader(loader: DataLoader, seed: int, position: Position) -> None:
    """Make the next ``iter(loader)`` return the batches after ``position``, without using global generators.

    Map-style data needs ``ResumableSampler``.  Iterable datasets implement this protocol, called in the
    main process before workers start:

    * ``set_epoch(epoch)``: the order of the epoch depends on the seed, the epoch, the process and the worker
      only, and starts from its beginning.
    * ``skip_batches(batches)``, called after it and only if ``batches > 0``: skip the first
      ``batches`` batches that the loader of this process would give, without decoding them.  ``build_loader``
      sets its argument ``batch_size`` to that of the loader.  The loader takes batches from its W workers in
      turn, so worker w takes the role of worker v = (w + batches) % W and skips
      ``len(range(v, batches, W))`` batches of v's stream.
    * every worker and process gives the same number of batches; else the end of an epoch is not exact.

    Both kinds may have ``dataset.set_epoch(epoch)``, for augmentation drawn from (seed, epoch, index).

    Raises:
        InputError: persistent workers, which do not get the new epoch; an iterable dataset that
            cannot skip batches.
    """
    if loader.persistent_workers:
        raise InputError(
            'training data needs persistent_workers=False; persistent workers do not get the new epoch'
        )
    loader.generator = _generator(seed, position.epoch, stream=1 + rank())
    dataset = loader.dataset
    if hasattr(dataset, 'set_epoch'):
        dataset.set_epoch(position.epoch)
    if isinstance(dataset, IterableDataset):
        if position.batches and not hasattr(dataset, 'skip_batches'):
            raise InputError(
                f'cannot resume within an epoch: {type(dataset).__name__} has no method skip_batches()'
            )
        if position.batches:
            dataset.skip_batches(position.batches)  # type: ignore[attr-defined]
        return
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    if hasattr(sampler, 'set_position'):
        sampler.set_position(position.epoch, position.samples)
    elif position.batches:
        raise InputError('resuming within an epoch needs sampler=dict(type=ResumableSampler)')
    elif hasattr(sampler, 'set_epoch'):
        sampler.set_epoch(position.epoch)


def check_position(saved: Position, now: Position, iterable: bool) -> Position:
    """The saved position in batches of the present layout.

    Map-style data continues after the same samples for any batch size and number of processes.

    Raises:
        InputError: in the middle of an epoch, a layout in which the position cannot be expressed.
    """
    names = ('batch_size', 'processes', 'num_workers') if iterable else ('batch_size', 'processes')
    changed = [name for name in names if getattr(saved, name) != getattr(now, name)]
    batches, left_over = divmod(saved.samples, now.batch_size * now.processes)
    other_data = bool(saved.dataset_size) and saved.dataset_size != now.dataset_size
    other_mixture = saved.mixture != now.mixture
    if (
        other_data
        and not iterable
        and saved.dataset_size - saved.samples < saved.batch_size * saved.processes
    ):
        saved = replace(saved, epoch=saved.epoch + 1, batches=0)  # that epoch was complete
        batches = 0
    if saved.batches and ((changed and (iterable or left_over)) or other_data or other_mixture):
        changed += ['dataset_size'] if other_data else []
        changed += ['mixture'] if other_mixture else []
        was = ', '.join(f'{name}={getattr(saved, name) or "one source"}' for name in changed)
        raise InputError(
            f'the run stopped within epoch {saved.epoch}; resume with the same settings and data ({was}), '
            'or start a new run from its weights with load_from'
        )
    if other_data:
        print_log(
            f'the training data has {now.dataset_size} samples or shards, {saved.dataset_size} when the run '
            'was stopped; it continues with the new data',
            logger='current',
            level=logging.WARNING,
        )
    elif other_mixture:
        print_log(
            f'the training data is mixed of {now.mixture or "one source"}; when the run was stopped, of '
            f'{saved.mixture or "one source"}; it continues with the new mixture',
            logger='current',
            level=logging.WARNING,
        )
    batches = batches if changed else saved.batches
    return replace(now, step=saved.step, epoch=saved.epoch, batches=batches)


class StopSignals:
    """Records SIGTERM and SIGINT, so that the current step can be finished and saved.

    A second Ctrl-C interrupts at once.  Has no effect outside the main thread.

    Attributes:
        received: the number of the signal, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        with contextlib.suppress(ValueError):  # not the main thread
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = number


def steady_worker(worker: int) -> None:
    """Worker start-up: delay the signal that stops the whole process group.

    The main process still needs the batch that it waits for.
    """

    def soon(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if hasattr(signal, 'alarm'):
            signal.alarm(_WORKER_GRACE)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, soon)
