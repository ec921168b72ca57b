"""Generators, the order of samples, and the place in the data."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from clipdense.engine import Position, ResumableSampler, random_state_kept
from clipdense.engine import resume as resume_module
from clipdense.engine.resume import (
    StopSignals,
    check_position,
    place_loader,
    random_state,
    set_random_state,
    steady_worker,
)
from clipdense.utils.errors import InputError


def draw():
    return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002


def test_random_state_round_trip():
    random.gauss(0, 1)  # half of a pair stays in the generator
    np.random.randn()  # noqa: NPY002
    state = random_state()
    first = draw(), random.gauss(0, 1), np.random.randn()  # noqa: NPY002
    set_random_state(state)
    assert (draw(), random.gauss(0, 1), np.random.randn()) == first  # noqa: NPY002


def test_random_state_is_kept_also_after_an_error():
    state = random_state()
    expected = draw()
    set_random_state(state)
    with contextlib.suppress(RuntimeError), random_state_kept():
        draw()
        raise RuntimeError
    assert draw() == expected


def as_process(monkeypatch, rank, processes):
    monkeypatch.setattr(resume_module, 'rank', lambda: rank)
    monkeypatch.setattr(resume_module, 'world_size', lambda: processes)


@pytest.mark.parametrize(
    ('processes', 'expected'),
    [(1, [[0, 1, 2, 3, 4, 5, 6]]), (2, [[0, 2, 4], [1, 3, 5]]), (3, [[0, 3], [1, 4], [2, 5]]), (8, [[]] * 8)],
)
def test_sampler_shares_out_equally(monkeypatch, processes, expected):
    shares = []
    for rank in range(processes):
        as_process(monkeypatch, rank, processes)
        sampler = ResumableSampler(range(7), shuffle=False)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    assert shares == expected


def test_sampler_shuffles_by_seed_and_epoch_only():
    def order(seed, epoch):
        sampler = ResumableSampler(range(50), seed=seed)
        sampler.set_epoch(epoch)
        torch.rand(1)
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert sorted(order(1, 0)) == list(range(50))
    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len(set(map(tuple, orders))) == 9


@pytest.mark.parametrize('before', [1, 2])
@pytest.mark.parametrize('after', [1, 2])
def test_sampler_continues_with_any_number_of_processes(monkeypatch, before, after):
    """The first 8 samples by ``before`` processes, the other 8 by ``after``: each sample once."""
    seen = []
    for rank in range(before):
        as_process(monkeypatch, rank, before)
        seen += list(ResumableSampler(range(16), seed=3))[: 8 // before]
    for rank in range(after):
        as_process(monkeypatch, rank, after)
        sampler = ResumableSampler(range(16), seed=3)
        sampler.set_position(0, 8)
        seen += list(sampler)
    assert sorted(seen) == list(range(16))


def labels(loader):
    return [batch['labels'].flatten().tolist() for batch in loader]


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
@pytest.mark.parametrize(
    ('workers', 'skipped'), [(0, 4), (1, 3), (2, 0), (2, 1), (2, 4), (2, 6), (3, 1), (3, 2), (3, 5)]
)
def test_stream_continues_where_it_was(tiny, workers, skipped):
    """The protocol of iterable datasets, for every number of batches and workers."""

    def loader():
        return DataLoader(tiny.Stream(12, 2, max(workers, 1)), batch_size=2, num_workers=workers)

    whole = loader()
    place_loader(whole, 0, Position(epoch=1))
    rest = loader()
    place_loader(rest, 0, Position(epoch=1, batches=skipped))
    assert labels(rest) == labels(whole)[skipped:]


def test_place_loader_draws_nothing_global(tiny):
    loader = DataLoader(tiny.Map(6), sampler=ResumableSampler(range(6)), batch_size=2)
    state = random_state()
    place_loader(loader, 0, Position(epoch=2, batches=1, batch_size=2))
    assert len(labels(loader)) == 2
    assert torch.equal(random_state()['torch'], state['torch'])
    assert loader.dataset.epoch == 2


def test_workers_draw_anew_in_each_epoch(tiny):
    class Noise(tiny.Map):
        def __getitem__(self, index):
            return torch.rand(()), np.random.rand(), random.random()  # noqa: NPY002

    loader = DataLoader(Noise(2), sampler=ResumableSampler(range(2)), num_workers=1)
    draws = []
    for epoch in (0, 0, 1):
        place_loader(loader, 7, Position(epoch=epoch))
        draws.append([float(value) for batch in loader for value in batch])
    assert draws[0] == draws[1]
    assert not set(draws[0]) & set(draws[2])


class NoSkip(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(range(4))


UNPLACEABLE = {
    'iterable without skip_batches': (lambda tiny: DataLoader(NoSkip()), 1, 'has no method skip_batches'),
    'other sampler': (lambda tiny: DataLoader(tiny.Map(4)), 1, 'ResumableSampler'),
    'persistent workers': (
        lambda tiny: DataLoader(tiny.Map(4), num_workers=1, persistent_workers=True),
        0,
        'persistent_workers=False',
    ),
}


@pytest.mark.parametrize(('make', 'batches', 'message'), UNPLACEABLE.values(), ids=UNPLACEABLE)
def test_place_loader_refuses(tiny, make, batches, message):
    with pytest.raises(InputError, match=message):
        place_loader(make(tiny), 0, Position(batches=batches))


SAVED = Position(step=13, epoch=1, batches=6, batch_size=4, processes=2, num_workers=1)  # 48 samples
LAYOUTS = {  # batch size, processes, workers now; batches for map-style and iterable data (None: refused)
    'same': ((4, 2, 1), 6, 6),
    'other workers': ((4, 2, 3), 6, None),
    'twice the batch': ((8, 2, 1), 3, None),
    'one process': ((4, 1, 1), 12, None),
    'one process, twice the batch': ((8, 1, 1), 6, None),
    'no whole batch': ((5, 2, 1), None, None),
}


@pytest.mark.parametrize(('layout', 'mapped', 'iterable'), LAYOUTS.values(), ids=LAYOUTS)
def test_check_position(layout, mapped, iterable):
    now = Position(0, 0, 0, *layout)
    for expected, is_iterable in ((mapped, False), (iterable, True)):
        if expected is None:
            with pytest.raises(InputError, match='resume with the same settings'):
                check_position(SAVED, now, is_iterable)
        else:
            assert check_position(SAVED, now, is_iterable) == Position(13, 1, expected, *layout)


def test_any_layout_may_follow_a_border():
    saved = Position(13, 2, 0, 4, 2, 1)
    assert check_position(saved, Position(0, 0, 0, 5, 1, 0), True) == Position(13, 2, 0, 5, 1, 0)


def test_a_changed_mixture(caplog):
    """Within an epoch it cannot continue; at its end it says what has changed."""
    saved, now = Position(13, 2, 5, mixture='a 1 (3 shards), b 1 (2 shards)'), Position(mixture='a 2, b 1')
    with pytest.raises(
        InputError, match=r'within epoch 2; resume with .*mixture=a 1 .3 shards., b 1 .2 shards.'
    ):
        check_position(saved, now, True)
    with pytest.raises(InputError, match='mixture=one source'):
        check_position(replace(saved, mixture=''), now, True)
    assert check_position(replace(saved, batches=0), now, True) == replace(now, step=13, epoch=2)


def test_stop_signals_notes_and_restores():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # pre-emption may say it twice
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def own_handlers():
    """Signal handlers are put back, and no alarm is left."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    signal.alarm(0)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_worker_outlives_the_first_signal(own_handlers):
    steady_worker(0)
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    assert 0 < signal.alarm(0) <= resume_module._WORKER_GRACE, 'it will end by itself'
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, 'the second one ends it'
