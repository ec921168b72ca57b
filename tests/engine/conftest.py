"""A tiny model with dropout, tiny data with augmentation, and configs that train them in milliseconds."""

from __future__ import annotations

import pytest
import torch
from mmengine.evaluator import BaseMetric
from torch import nn
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from clipdense.engine import ProgressHook, ResumableSampler, Runner, WarmupCosine
from clipdense.tasks.model import Model


class TinyModel(Model):
    """Linear, dropout, linear; the loss is a mean square."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.dropout, self.last = nn.Linear(3, width), nn.Dropout(0.5), nn.Linear(width, 1)
        self.logit_scale = nn.Parameter(torch.tensor(0.5))
        self.seen: list[list[float]] = []

    def forward(self, images, labels, mode='tensor'):
        self.seen.append(labels.flatten().tolist())
        scores = self.last(self.dropout(torch.tanh(self.first(images)))) * self.logit_scale.exp()
        if mode == 'loss':
            return {'loss': (scores - labels).square().mean()}
        return list(scores)


def item(index: int, epoch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Sample ``index``, jittered by (seed, epoch, index) alone."""
    generator = torch.Generator().manual_seed(seed + 1000 * epoch + index)
    return {'images': torch.randn(3, generator=generator) + index, 'labels': torch.tensor([float(index)])}


class TinyMap(Dataset):
    def __init__(self, size: int = 10) -> None:
        self.size, self.epoch = size, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int):
        return item(index, self.epoch)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class TinyStream(IterableDataset):
    """``per_worker`` samples from each worker, without a length."""

    def __init__(self, size: int = 10, batch_size: int = 2, workers: int = 1) -> None:
        self.per_worker, self.batch_size = size // workers, batch_size
        self.epoch = self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self.skip = epoch, 0

    def skip_batches(self, batches: int) -> None:
        self.skip = batches

    def __iter__(self):
        worker = get_worker_info()
        index, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        part = (index + self.skip) % workers
        start = len(range(part, self.skip, workers)) * self.batch_size
        for at in range(start, self.per_worker):
            yield item(at * workers + part, self.epoch)


class MeanError(BaseMetric):
    """A metric that draws random numbers, as evaluations may."""

    default_prefix = 'tiny'

    def process(self, data_batch, data_samples):
        torch.rand(3)
        self.results += [float(sample) for sample in data_samples]

    def compute_metrics(self, results):
        return {'size': sum(map(abs, results))}


@pytest.fixture
def tiny():
    """The classes above, by name."""

    class Names:
        Model, Map, Stream, Metric = TinyModel, TinyMap, TinyStream, MeanError

    return Names


@pytest.fixture
def make_config(tmp_path):
    """``make_config(steps=6, stream=False, workers=0, **entries) -> dict`` of a whole run."""

    def make(steps=6, stream=False, workers=0, work_dir='run', size=10, batch_size=2, **entries):
        data = {'type': TinyMap, 'size': size}
        if stream:
            data = {'type': TinyStream, 'size': size, 'workers': max(workers, 1)}
        loader = {'dataset': data, 'batch_size': batch_size, 'num_workers': workers, 'drop_last': True}
        if not stream:
            loader['sampler'] = {'type': ResumableSampler, 'shuffle': True}
        return {
            'model': {'type': TinyModel},
            'work_dir': str(tmp_path / work_dir),
            'train_dataloader': loader,
            'train_cfg': {'max_steps': steps},
            'optim_wrapper': {
                'optimizer': {'type': torch.optim.AdamW, 'lr': 0.05, 'weight_decay': 0.1},
                'precision': 'fp32',
            },
            'param_scheduler': {'type': WarmupCosine, 'warmup': 2},
            'default_hooks': {'logger': {'type': ProgressHook, 'interval': 2}},
            'randomness': {'seed': 5},
            **entries,
        }

    return make


@pytest.fixture
def losses_of():
    """``losses_of(runner)``: the logged loss of every step so far."""

    def losses(runner: Runner) -> list[float]:
        return [float(value) for value in runner.message_hub.get_scalar('train/loss').data[0]]

    return losses
