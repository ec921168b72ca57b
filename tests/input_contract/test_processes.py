"""The table below "Several processes" of docs/input_contract.md: runs of two processes on one machine."""

from __future__ import annotations

import logging
import os
import warnings
from functools import partial

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn
from torch.utils.data import Dataset

from clipdense.data.image_text.shards import ImageTextShards
from clipdense.engine import CheckpointHook, ResumableSampler, Runner
from clipdense.engine.parallel import read_parallel
from clipdense.engine.peers import one_fate
from clipdense.tasks.model import Model
from clipdense.utils.errors import InputError

SECTION = 'Several processes'
FSDP = {'type': 'fsdp'}


class Numbers(Model):
    """A regression of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.last = nn.Linear(3, 1)

    def forward(self, images, mode='tensor'):
        for block in self.blocks:
            images = block(images)
        return {'loss': (self.last(images) - 1).square().mean()}


class Samples(Dataset):
    """As many samples as a process is given."""

    def __init__(self, size: int = 16, more: int = 0) -> None:
        self.size = size + more * int(os.environ['RANK'])

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return {'images': torch.full((3,), float(index))}


class AtStepTwo(Hook):
    """Something happens in process 1 before its second step."""

    def __init__(self, event: str) -> None:
        self.event = event

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and runner.iter == 1:
            if self.event == 'error':
                raise InputError('shard 7 is damaged')
            data_batch['images'].fill_(float('nan'))


class Keep(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def one(rank: int, folder: str, processes: int, settings: dict) -> tuple[str | None, list[str]]:
    """A run in this process: what it was refused with, or None, and its warnings."""
    settings = {'steps': 3, 'data': {}, 'size': 2, **settings}
    if processes > 1:
        os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(processes))
        for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):  # otherwise MMEngine says that it sets them
            os.environ.setdefault(name, '1')
        settings['launcher'] = 'pytorch'
    else:
        os.environ['RANK'] = '0'
    loader = {
        'dataset': {'type': Samples, **settings.pop('data')},
        'batch_size': settings.pop('size'),
        'sampler': {'type': ResumableSampler},
    }
    wrapper = {'optimizer': {'type': torch.optim.SGD, 'lr': 0.01}, 'precision': 'fp32'}
    config = {
        'model': {'type': Numbers},
        'work_dir': folder,
        'train_dataloader': loader,
        'train_cfg': {'max_steps': settings.pop('steps')},
        'optim_wrapper': {**wrapper, **settings.pop('wrapper', {})},
        'default_hooks': {'checkpoint': {'type': CheckpointHook, 'interval': 1, **settings.pop('save', {})}},
        'randomness': {'seed': 0},
        **settings,
    }
    keep = Keep()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', UserWarning)
        try:
            with one_fate(folder):
                runner = Runner.from_cfg(config)
                runner.logger.handlers.append(keep)
                runner.train()
        except InputError as error:
            return str(error), []
    ours = [str(one.message) for one in caught if '/torch/' not in one.filename]
    return None, keep.lines + ours


def train(folder, run_processes, processes=2, **settings) -> None:
    """Train in two processes; raises the refusal, which both have, or warns of what was said."""
    work_dir = str(folder / 'run')
    if processes == 1:
        found = [one(0, work_dir, 1, settings)]
    else:
        found = run_processes(one, work_dir, processes, settings, processes=processes)
    refusals = [refusal for refusal, _ in found]
    assert all(refusals) or not any(refusals), 'all processes end in the same way'
    if refusals[0]:
        raise InputError(refusals[0])
    for line in found[0][1]:
        warnings.warn(line, stacklevel=1)


def resumed(folder, run_processes, before, after, **settings) -> None:
    """Two steps with some processes, then two more with others."""
    train(folder, run_processes, before, steps=2, size=4 // before, **settings)
    train(folder, run_processes, after, steps=4, size=4 // after, resume=True, **settings)


def event(folder, run_processes, name) -> None:
    train(folder, run_processes, custom_hooks=[{'type': AtStepTwo, 'event': name}])


def shards(folder, run_processes) -> None:
    """Two processes with two workers each, and three shards."""

    def few(rank):
        for index in range(3):
            (folder / f'{index}.tar').write_bytes(b'\0' * 10240)
        ImageTextShards(f'{folder}/{{0..2}}.tar', samples_per_epoch=12, batch_size=2).check_workers(2)

    run_processes(few)


READ = {
    'the same data in all processes': train,
    'another number of samples in each process': partial(train, data={'more': 6}),
    '`parallel.global_batch` that processes do not divide': partial(train, parallel={'global_batch': 5}),
    'fewer shards than processes times workers': shards,
    'a sample with NaN in one process': partial(event, name='nan'),
    'an error in one process': partial(event, name='error'),
    'a checkpoint of another number of processes': partial(resumed, before=2, after=1),
    'a sharded checkpoint of another number of processes': partial(
        resumed, before=2, after=1, save={'sharded': True}
    ),
    '`parallel.type` that does not exist': lambda folder, run_processes: read_parallel({'type': 'zero'}),
    'a setting of `fsdp` with `ddp`': lambda folder, run_processes: read_parallel({'param_dtype': 'bf16'}),
    '`parallel.static_graph` with gradients accumulated over steps': partial(
        train, parallel={'static_graph': True}, wrapper={'accumulative_counts': 2}
    ),
    '`parallel.cpu_offload` without a GPU': partial(train, parallel={**FSDP, 'cpu_offload': True}),
    "`parallel.param_dtype='bf16'` where the hardware has no bf16": partial(
        train, parallel={**FSDP, 'param_dtype': 'bf16'}
    ),
}


@pytest.fixture(autouse=True)
def no_bf16(monkeypatch):
    monkeypatch.setattr('clipdense.layers.precision.has_native_bf16', lambda device: False)


def test_row(row, check, run_processes):
    check(row, {name: partial(read, run_processes=run_processes) for name, read in READ.items()})
