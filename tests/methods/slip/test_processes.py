"""Two processes train as one process on the joined batch: heads, losses, teachers and the center included."""

from __future__ import annotations

import os

import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import Dataset

from clipdense.engine import ResumableSampler, Runner
from clipdense.methods.slip.byol import Byol
from clipdense.methods.slip.dino import Dino
from clipdense.methods.slip.moco import MocoV3
from clipdense.methods.slip.simclr import SimClr

STEPS = 3


class Views(Dataset):
    """Random images with views and captions."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data['images'])

    def __getitem__(self, index):
        return {name: value[index] for name, value in self.data.items()}


def _train(model, data, folder, batch_size, launcher):
    runner = Runner.from_cfg(
        {
            'model': model,
            'work_dir': str(folder),
            'launcher': launcher,
            'train_dataloader': {
                'dataset': Views(data),
                'batch_size': batch_size,
                'sampler': {'type': ResumableSampler, 'shuffle': True},
            },
            'train_cfg': {'max_steps': STEPS},
            'optim_wrapper': {'optimizer': {'type': torch.optim.SGD, 'lr': 0.1}, 'precision': 'fp32'},
            'default_hooks': {'checkpoint': None},
            'randomness': {'seed': 0},
        }
    )
    runner.train()
    return {name.removeprefix('module.'): value for name, value in runner.model.state_dict().items()}


def _one_of_two(rank, *args):
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    return {name: value.numpy() for name, value in _train(*args).items()}


@pytest.mark.parametrize('micro_batch', [None, 2])
@pytest.mark.parametrize('partner', [SimClr, Byol, MocoV3, Dino])
def test_two_processes_equal_one(make, batch, tmp_path, partner, micro_batch, run_processes):
    def model():
        settings = {'bottleneck': 6, 'freeze_prototypes': 0.0} if partner is Dino else {}
        return make(partner, partner=settings, micro_batch=micro_batch).double()

    data = batch(8 * STEPS)
    alone = _train(model(), data, tmp_path / 'one', 8, 'none')
    found = run_processes(_one_of_two, model(), data, tmp_path / 'two', 4, 'pytorch')
    for rank, state in enumerate(found):
        for name, expected in alone.items():
            value = torch.from_numpy(state[name])
            assert_close(value, expected, atol=1e-8, rtol=1e-6, msg=f'{name} of process {rank}')
