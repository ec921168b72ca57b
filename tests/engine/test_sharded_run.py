"""Whole runs with sharded models and sharded checkpoints: resuming with the same and with other processes."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from clipdense.engine import CheckpointHook, Runner
from clipdense.engine.checkpointing import damage, newest_checkpoint, read_checkpoint
from clipdense.engine.parallel import read_parallel
from clipdense.engine.sharded_checkpoint import index_of
from clipdense.engine.sharding import whole
from clipdense.tasks.model import Model
from clipdense.utils.errors import CheckpointError, InputError

DDP, SHARDED = {'type': 'ddp'}, {'type': 'fsdp'}
FOLDERS = {'type': CheckpointHook, 'interval': 2, 'max_keep': -1, 'sharded': True}
BESIDE = {**FOLDERS, 'asynchronous': True}
FILES = {'type': CheckpointHook, 'interval': 2, 'max_keep': -1}


class Deep(Model):
    """Blocks, a scale that cannot be sharded, and a parameter that is not used; fp64, without randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(3))
        self.last = nn.Linear(3, 1)
        self.unused = nn.Parameter(torch.ones(3))
        self.logit_scale = nn.Parameter(torch.tensor(0.5))
        self.double()

    def forward(self, images, labels, mode='tensor'):
        x = images.double()
        for block in self.blocks:
            x = block(x)
        errors = self.last(x) * self.logit_scale.exp() - labels.double()
        return {'loss': errors.square().mean()} if mode == 'loss' else list(errors)


def _train(rank, config, processes):
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(processes))
    return _result(Runner.from_cfg({**config, 'launcher': 'pytorch'}))


def _result(runner):
    runner.train()
    model = getattr(runner.model, 'module', runner.model)
    weights = whole(dict(model.state_dict()))
    return {name: x.tolist() for name, x in weights.items()}


@pytest.fixture
def train(make_config, run_processes):
    """``train(processes, steps, parallel, checkpoint, resume=False)`` -> the weights, equal in all."""

    def run(processes, steps, parallel, checkpoint, work_dir='run', **entries):
        entries = {'ema': {'decay': 0.5}, 'model': {'type': Deep}, **entries}
        config = make_config(
            steps=steps,
            work_dir=work_dir,
            size=16,
            batch_size=4 // processes,
            **entries,
        )
        config['default_hooks']['checkpoint'] = checkpoint
        config['optim_wrapper']['clip_grad'] = {'max_norm': 0.5}
        if processes == 1:
            return _result(Runner.from_cfg(config))
        results = run_processes(_train, {**config, 'parallel': parallel}, processes, processes=processes)
        assert results[0] == results[1]
        return results[0]

    return run


def close(ours, expected, tolerance=1e-12):
    for name, value in expected.items():
        ours_of_it = torch.tensor(ours[name])
        assert torch.allclose(ours_of_it, torch.tensor(value), rtol=0, atol=tolerance), name


@pytest.mark.parametrize('checkpoint', [FILES, FOLDERS, BESIDE], ids=['files', 'folders', 'asynchronous'])
def test_a_sharded_run_resumes_exactly(train, checkpoint, tmp_path):
    expected = train(2, 4, SHARDED, checkpoint, 'whole')
    train(2, 2, SHARDED, checkpoint, 'cut')
    assert train(2, 4, SHARDED, checkpoint, 'cut', resume=True) == expected
    close(expected, train(1, 4, None, FILES, 'alone'))
    found = {path.name for path in (tmp_path / 'cut').glob('step_*')}
    assert found == ({'step_2.pth', 'step_4.pth'} if checkpoint is FILES else {'step_2', 'step_4'})
    assert not list((tmp_path / 'cut').glob('.step_*')), 'nothing temporary is left'


CHANGES = {
    'two, sharded -> one': ((2, SHARDED), (1, None)),
    'one -> two, sharded': ((1, None), (2, SHARDED)),
    'two, whole -> two, sharded': ((2, DDP), (2, SHARDED)),
    'four, sharded -> two, whole': ((4, SHARDED), (2, DDP)),
}


@pytest.mark.parametrize('checkpoint', [FILES, FOLDERS], ids=['files', 'folders'])
@pytest.mark.parametrize(('before', 'after'), CHANGES.values(), ids=CHANGES)
def test_resuming_with_other_processes(train, before, after, checkpoint):
    expected = train(1, 4, None, FILES, 'alone')
    train(before[0], 2, before[1], checkpoint, 'cut')
    close(train(after[0], 4, after[1], checkpoint, 'cut', resume=True), expected)


class Code:
    def __reduce__(self):
        return print, ('run',)


def test_damaged_folders(train, tmp_path, capsys):
    train(1, 4, None, FOLDERS)
    folder = tmp_path / 'run' / 'step_4'
    assert damage(folder) is None
    part = next(folder.glob('*.distcp'))
    data, index = part.read_bytes(), (folder / '.metadata').read_bytes()
    part.write_bytes(data[:-9])
    assert f'is damaged: {part.name} has {len(data) - 9} bytes' in damage(folder)
    assert newest_checkpoint(tmp_path / 'run').name == 'step_2'
    part.unlink()
    assert damage(folder) == f'is incomplete: {part.name} is missing'
    part.write_bytes(data)
    (folder / '.metadata').write_bytes(pickle.dumps(Code()))
    with pytest.raises(CheckpointError, match=r'it names builtins\.print'):
        index_of(folder)
    assert 'run' not in capsys.readouterr().out, 'no code of the file runs'
    (folder / '.metadata').write_bytes(index)
    (folder / 'state.pth').unlink()
    with pytest.raises(CheckpointError, match='is incomplete: an interrupted checkpoint'):
        read_checkpoint(folder)


class Wider(Deep):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2).double()


def test_a_folder_of_another_model_is_refused(train):
    train(1, 2, None, FOLDERS)
    with pytest.raises(
        CheckpointError, match=r'does not match this run: \d+ of another shape .*last.weight is'
    ):
        train(1, 4, None, FOLDERS, resume=True, model={'type': Wider})


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'type': 'zero'}, "parallel.type must be 'ddp' or 'fsdp', got 'zero'"),
        ({'static_grph': True}, 'parallel.static_grph: unknown entry; .*static_graph'),
        ({'static_graph': 'yes'}, "parallel.static_graph must be true or false, got 'yes'"),
        ({'bucket_mb': 0}, 'parallel.bucket_mb must be a whole number and at least 1, got 0'),
        ({'param_dtype': 'bf16'}, "parallel.param_dtype is a setting of type='fsdp', got type='ddp'"),
        ({'type': 'fsdp', 'bucket_mb': 5}, "parallel.bucket_mb is a setting of type='ddp'"),
        ({'type': 'fsdp', 'param_dtype': 'fp8'}, "parallel.param_dtype must be 'bf16' or 'fp32', got 'fp8'"),
        ('fsdp', "parallel must be a part such as .*got 'fsdp'"),
    ],
)
def test_wrong_settings(section, message):
    with pytest.raises(InputError, match=message):
        read_parallel(section)


def _offloaded(rank, config):
    try:
        _train(rank, config, 2)
    except InputError as error:
        return str(error)


def test_offloading_without_a_gpu_is_refused(make_config, run_processes):
    parallel = {**SHARDED, 'cpu_offload': True}
    said = run_processes(_offloaded, make_config(parallel=parallel, model={'type': Deep}))
    assert said == ['parallel.cpu_offload moves weights from a GPU, and there is none: remove it'] * 2
    assert not Path('step_2').exists()
