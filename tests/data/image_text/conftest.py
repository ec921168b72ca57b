"""Tar shards of numbered images, and the ways to read them."""

from __future__ import annotations

import io
import itertools
import tarfile
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from clipdense.data.batches import collate
from clipdense.data.image_text import shards as shards_module
from clipdense.data.image_text.shards import ImageTextShards
from clipdense.data.transforms import CenterCrop

CROP = CenterCrop(4)


def numbers(texts):
    """A tokenizer for captions that are numbers."""
    return np.array([[int(text)] for text in texts])


@cache
def make_image(number, form='PNG'):
    file = io.BytesIO()
    Image.new('RGB', (5, 6), (number, 0, 0)).save(file, form)
    return file.getvalue()


def sample(number, **members):
    """(name, bytes) of a sample; ``None`` leaves a member out."""
    content = {'png': make_image(number % 256), 'txt': str(number).encode(), **members}
    return [(f'{number:06d}.{kind}', data) for kind, data in content.items() if data is not None]


def pack(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def samples(first, count):
    return [member for number in range(first, first + count) for member in sample(number)]


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch):
    """A command that fails is not run again, which would take a second."""
    monkeypatch.setenv('CLIPDENSE_STREAM_RETRIES', '0')


@pytest.fixture
def folder(tmp_path):
    """Six shards of seven samples; sample ``i`` has the number ``i`` as its caption and its red."""
    for shard in range(6):
        (tmp_path / f's-{shard:02d}.tar').write_bytes(pack(samples(10 * shard, 7)))
    return tmp_path


ALL = [10 * shard + number for shard in range(6) for number in range(7)]


@pytest.fixture
def log(monkeypatch):
    """Lines that were logged."""
    lines = []
    monkeypatch.setattr('clipdense.data.faults.print_log', lambda line, logger, level: lines.append(line))
    return lines


def stream(urls, batch_size=2, transform=CROP, **settings):
    return ImageTextShards(urls, batch_size, transform, numbers, **settings)


def read(dataset):
    """The numbers that a stream gives, whose images must be theirs."""
    items = list(dataset)
    captions = [int(item['token_ids']) for item in items]
    assert [int(item['images'][0, 2, 2]) for item in items] == [number % 256 for number in captions]
    return captions


def load(dataset, workers=0, batch_size=2):
    """Batches of numbers, through a loader."""
    loader = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=collate)
    return [batch['token_ids'].flatten().tolist() for batch in loader]


def play(monkeypatch, dataset, workers, batch_size=2):
    """What ``load`` gives, without processes: each worker in turn gives a batch until all have ended."""
    streams = []
    for worker in range(workers):
        info = SimpleNamespace(id=worker, num_workers=workers)
        monkeypatch.setattr(shards_module, 'get_worker_info', lambda info=info: info)
        streams.append(iter(dataset))
    turns = itertools.zip_longest(*(batched(stream, batch_size) for stream in streams))
    return [batch for turn in turns for batch in turn if batch]


def batched(items, size):
    while batch := [int(item['token_ids']) for item in itertools.islice(items, size)]:
        yield batch


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(shards_module.dist, 'rank', lambda: rank)
    monkeypatch.setattr(shards_module.dist, 'world_size', lambda: world_size)
