"""Two processes: each contrasts its own pairs with the queue of both, and gradients are averaged."""

from __future__ import annotations

import os
from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import Dataset

from clipdense.engine import ResumableSampler, Runner
from clipdense.methods.blip.finetuning import BlipRetrievalTrainer
from clipdense.methods.blip.pretrainer import BlipPretrainer
from clipdense.methods.blip.trainer import image_numbers

STEPS, LR = 3, 0.1
PAIRS = 2  # of a process: each has one other pair, so that negatives are not random


class Pairs(Dataset):
    """Random images with captions."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data['names'])

    def __getitem__(self, index):
        return {name: value[index] for name, value in self.data.items()}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    count = 2 * PAIRS * STEPS
    ids = torch.randint(4, 50, (count, 6), generator=generator)
    ids[:, 0], ids[:, 5] = 2, 3
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {'images': images, 'token_ids': ids, 'names': [f'image {at % 9}' for at in range(count)]}


def _train(model, data, folder):
    runner = Runner.from_cfg(
        {
            'model': model,
            'work_dir': str(folder),
            'launcher': 'pytorch',
            'train_dataloader': {
                'dataset': Pairs(data),
                'batch_size': PAIRS,
                'sampler': {'type': ResumableSampler, 'shuffle': False},
            },
            'train_cfg': {'max_steps': STEPS},
            'optim_wrapper': {'optimizer': {'type': torch.optim.SGD, 'lr': LR}, 'precision': 'fp32'},
            'default_hooks': {'checkpoint': None},
            'randomness': {'seed': 0},
        }
    )
    runner.train()
    return {name.removeprefix('module.'): value for name, value in runner.model.state_dict().items()}


def _one_of_two(rank, *args):
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    return {name: value.numpy() for name, value in _train(*args).items()}


def by_hand(model, data):
    """The same steps in one process: the mean of the gradients of the parts of each batch."""
    for step in range(STEPS):
        everything = range(2 * PAIRS * step, 2 * PAIRS * (step + 1))
        halves = []
        for rank in range(2):
            half = deepcopy(model)
            rows = list(everything)[rank::2]  # as the sampler deals them
            images = half.data_preprocessor({'images': data['images'][rows]})['images']
            numbers = image_numbers([data['names'][row] for row in rows], images.device)
            losses = half.losses(images, half.tokens(data['token_ids'][rows]), numbers)
            torch.stack(list(losses.values())).sum().backward()
            halves.append(half)
        places = (model.queue.place + torch.arange(PAIRS)) % model.queue.size
        image, text = (
            torch.cat([getattr(half.queue, name)[:, places].mT for half in halves])
            for name in ('image', 'text')
        )
        known = [half.queue.numbers for half in halves]
        numbers = None if known[0] is None else torch.cat([one[places] for one in known])
        model.queue.write(image, text, numbers)
        model.averages.load_state_dict(halves[0].averages.state_dict())
        parts = zip(model.blip.parameters(), *(half.blip.parameters() for half in halves), strict=True)
        with torch.no_grad():
            model.blip.joint.temperature.copy_(halves[0].blip.joint.temperature)  # clamped before the step
            for parameter, one, other in parts:
                if one.grad is not None:
                    parameter -= LR * (one.grad + other.grad) / 2
        model.steps += 1
    return model.state_dict()


@pytest.mark.parametrize('kind', [BlipPretrainer, BlipRetrievalTrainer])
def test_two_processes(tiny, data, tmp_path, kind, run_processes):
    model = kind(tiny(dropout=0.0), queue_size=10, momentum=0.9, ramp_steps=2).double().train()
    expected = by_hand(deepcopy(model), data)
    found = run_processes(_one_of_two, model, data, tmp_path / 'two')
    for rank, state in enumerate(found):
        assert set(state) == set(expected)
        for name, value in expected.items():
            mine = torch.from_numpy(state[name])
            assert_close(mine, value, atol=1e-8, rtol=1e-6, msg=f'{name} of process {rank}')
