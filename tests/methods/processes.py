"""Training in one process or in two, for methods whose two processes equal one, or a computation by hand."""

from __future__ import annotations

import os

import torch
from torch.testing import assert_close
from torch.utils.data import Dataset

from clipdense.engine import ResumableSampler, Runner


class Rows(Dataset):
    """A batch as a dataset of its rows."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data['images'])

    def __getitem__(self, index):
        return {name: value[index] for name, value in self.data.items()}


def train(model, data, folder, *, steps, batch_size, lr=0.1, shuffle=False, launcher='none'):
    """Some steps of SGD -> the state of the model."""
    runner = Runner.from_cfg(
        {
            'model': model,
            'work_dir': str(folder),
            'launcher': launcher,
            'train_dataloader': {
                'dataset': Rows(data),
                'batch_size': batch_size,
                'sampler': {'type': ResumableSampler, 'shuffle': shuffle},
            },
            'train_cfg': {'max_steps': steps},
            'optim_wrapper': {'optimizer': {'type': torch.optim.SGD, 'lr': lr}, 'precision': 'fp32'},
            'default_hooks': {'checkpoint': None},
            'randomness': {'seed': 0},
        }
    )
    runner.train()
    return {name.removeprefix('module.'): value for name, value in runner.model.state_dict().items()}


def _one_of_two(rank, args, options):
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    state = train(*args, **options, launcher='pytorch')
    return {name: value.numpy() for name, value in state.items()}


def check_two(run_processes, expected, model, data, folder, **options):
    """Train in two processes, each with ``batch_size`` rows of a step, and compare the states of both.

    Args:
        run_processes: the fixture.
        expected: state of the model.
        model, data, options: see ``train``.
        folder: scratch.
    """
    for rank, state in enumerate(run_processes(_one_of_two, (model, data, folder / 'two'), options)):
        assert set(state) == set(expected)
        for name, value in expected.items():
            mine = torch.from_numpy(state[name])
            assert_close(mine, value, atol=1e-8, rtol=1e-6, msg=f'{name} of process {rank}')
