"""Several processes of which one has other data, or ends: all end, with the reason."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook

from clipdense.engine import Runner, peers, train
from clipdense.engine.peers import share_of_batch
from clipdense.utils.errors import InputError


class Damaged(Hook):
    """Process 1 meets bad input at its third step."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and runner.iter == 2:
            raise InputError('shard 7 is damaged')


class Broken(Hook):
    """Process 1 has a programming error at its third step."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and runner.iter == 2:
            raise KeyError('a bug')


class Killed(Hook):
    """Process 1 is killed at its third step."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and runner.iter == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def _end_of(rank, config, store, queue):
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    try:
        train(Config({**config, 'launcher': 'pytorch'}))
    except Exception as error:
        queue.put((rank, type(error).__name__, str(error)))
    queue.close()
    queue.join_thread()
    os._exit(0)


@pytest.fixture
def ends(make_config, tmp_path):
    """``ends(hook) -> {process: (kind of error, message)}`` of those that can say it, within a minute."""

    def run(hook, count=2):
        config = make_config(size=16, custom_hooks={'end': {'type': hook}})
        context = multiprocessing.get_context('fork')
        queue = context.Queue()
        workers = [
            context.Process(target=_end_of, args=(rank, config, tmp_path / 'store', queue))
            for rank in range(2)
        ]
        for worker in workers:
            worker.start()
        found = {rank: said for rank, *said in (queue.get(timeout=60) for _ in range(count))}
        for worker in workers:
            worker.join()
        return found

    return run


@pytest.mark.parametrize(
    ('hook', 'own', 'reason'),
    [(Damaged, 'InputError', 'shard 7 is damaged'), (Broken, 'KeyError', "'a bug'")],
    ids=['bad input', 'a bug'],
)
def test_the_others_end_with_the_reason(ends, hook, own, reason):
    found = ends(hook)
    assert found[1] == [own, reason]
    assert found[0][0] == 'InputError'
    assert found[0][1] == f'process 1 of 2 ended: {reason}; there is no checkpoint yet'


def test_a_killed_process_ends_the_others(ends, monkeypatch):
    monkeypatch.setattr(peers, '_PATIENCE', peers.timedelta(seconds=1))
    found = ends(Killed, count=1)
    assert found.keys() == {0}
    assert 'another process ended without giving a reason' in found[0][1]


def _refused(rank, config):
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    config['train_dataloader']['dataset']['size'] = 10 + 6 * rank
    try:
        Runner.from_cfg({**config, 'launcher': 'pytorch'}).train()
    except InputError as error:
        return str(error)


def test_different_data_is_refused_in_all(make_config, run_processes):
    said = run_processes(_refused, make_config())
    assert said[0] == said[1]
    assert 'its number of samples or shards is 10 in process 0, 16 in process 1; give all of them' in said[0]


def _sizes(rank, config):
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    try:
        runner = Runner.from_cfg({**config, 'launcher': 'pytorch'})
        runner.train()
        return runner.train_dataloader.batch_size
    except InputError as error:
        return str(error)


@pytest.mark.parametrize(
    ('total', 'expected'),
    [
        (4, 2),
        (5, 'parallel.global_batch=5 cannot be divided among 2 processes: use 4 or 6, or another number'),
    ],
)
def test_the_batch_of_all_processes(make_config, run_processes, total, expected):
    found = run_processes(_sizes, make_config(steps=2, parallel={'global_batch': total}))
    assert found[0] == found[1]
    assert found[0] == expected or expected in found[0]


@pytest.mark.parametrize('total', [0, 2.5, True, '8'])
def test_wrong_batches(total):
    with pytest.raises(InputError, match='must be a whole number and at least 1'):
        share_of_batch(total)


def test_a_run_that_torchrun_starts_again_continues(make_config, monkeypatch):
    train(Config(make_config(steps=2)))
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    runner = train(Config(make_config(steps=4)))
    assert runner.iter == 4
    assert len(runner.model.seen) == 2, 'two more steps'
