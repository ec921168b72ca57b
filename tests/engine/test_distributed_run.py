"""Whole runs of two processes: equal models, exact resume, agreement on the end and on signals."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from clipdense.engine import CheckpointHook, Runner
from clipdense.engine.checkpointing import read_checkpoint

from ..stopping import StopAt


def _run(rank, config, hooks=None):
    """Losses of each step in this process, its final weights, and the samples it saw."""
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    config = {**config, 'launcher': 'pytorch', 'default_hooks': {**config['default_hooks'], **(hooks or {})}}
    runner = Runner.from_cfg(config)
    code = 0
    try:
        runner.train()
    except SystemExit as stop:
        code = stop.code
    losses = runner.message_hub.get_scalar('train/loss').data[0].tolist()
    weights = torch.cat([value.flatten() for value in runner.model.state_dict().values()]).tolist()
    return losses, weights, runner.model.module.seen, code, runner.iter


SAVE = {'checkpoint': {'type': CheckpointHook, 'interval': 1, 'max_keep': -1}}


@pytest.mark.parametrize('stream', [False, True], ids=['map', 'iterable'])
def test_two_processes_resume_bit_for_bit(make_config, run_processes, stream):
    layout = {'stream': stream, 'size': 12, 'steps': 5}
    whole = run_processes(_run, make_config(**layout))
    assert whole[0][1] == whole[1][1], 'equal weights'
    assert whole[0][0] != whole[1][0], 'own samples, own dropout'
    if not stream:
        epoch = [label for _, _, seen, _, _ in whole for batch in seen[:3] for label in batch]
        assert sorted(epoch) == list(range(12))
    cut = make_config(work_dir='cut', **layout)
    run_processes(_run, cut, {**SAVE, 'stop': {'type': StopAt, 'step': 2}})
    resumed = run_processes(_run, {**cut, 'resume': True}, {'checkpoint': None})
    for ours, expected in zip(resumed, whole, strict=True):
        assert ours[1] == expected[1]
        assert ours[2] == expected[2][2:]
    assert resumed[0][0] == whole[0][0], 'the main process keeps the history of the log'


class SignalOne(Hook):
    """Only process 1 is asked to stop."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and runner.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_to_one_process_stops_both(make_config, run_processes):
    config = make_config(size=12)
    results = run_processes(
        _run,
        config,
        {'checkpoint': {'type': CheckpointHook, 'interval': None}, 'signal': {'type': SignalOne}},
    )
    assert [(code, step) for *_, code, step in results] == [(143, 3), (143, 3)]
    checkpoint = read_checkpoint(Path(config['work_dir']) / 'step_3.pth')
    assert len(checkpoint['random']) == 2


def _uneven(rank, config):
    config['train_dataloader']['dataset']['size'] = 6 + 4 * rank
    return _run(rank, config, {'checkpoint': None})


def test_processes_with_unequal_streams_end_together(make_config, run_processes):
    """3 and 5 batches: every epoch has 3, and nobody waits for ever."""
    results = run_processes(_uneven, make_config(stream=True, steps=5))
    assert [step for *_, step in results] == [5, 5]
    labels = [[batch[0] for batch in seen] for _, _, seen, _, _ in results]
    assert labels == [[0, 2, 4, 0, 2]] * 2


@pytest.mark.parametrize('sync', [True, False])
def test_batch_norm_over_both_processes(make_config, run_processes, tiny, sync):
    """Statistics of each process's own images differ; those of all are one."""

    class Normed(tiny.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(self.first, nn.BatchNorm1d(4))

    config = make_config(size=12, batch_size=3, steps=2, sync_bn=sync)
    found = run_processes(_statistics, {**config, 'model': {'type': Normed}})
    assert (found[0] == found[1]) == sync


def _statistics(rank, config):
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    runner = Runner.from_cfg({**config, 'launcher': 'pytorch'})
    runner.train()
    return runner.model.module.first[1].running_mean.tolist()
