"""The tables below "Region features" of docs/input_contract.md."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from clipdense.data.detection.region_features import FORMAT, RegionFeatures
from clipdense.weights.io import weights_digest

SECTION = 'Region features'


def file(without=(), metadata=None, names=('cat', 'dog'), **changes):
    """Reads a file of four regions with some tensors changed or left out."""

    def read(folder):
        tensors = {
            'features': torch.ones(4, 3, dtype=torch.float16),
            'labels': torch.tensor([0, 1, -1, 0]),
            'ious': torch.tensor([1.0, 0.5, 0.0, 0.2]),
            **changes,
        }
        tensors = {name: tensor for name, tensor in tensors.items() if name not in without}
        told = {'format': FORMAT, 'sha256': weights_digest(tensors), 'class_names': json.dumps(names)}
        path = folder / 'regions.safetensors'
        save_file(tensors, path, {**told, **(metadata or {})})
        found = RegionFeatures.load(path)
        assert found.class_names == tuple(names)
        assert found.labels.tolist() == tensors['labels'].tolist()

    return read


def torch_file(folder):
    torch.save({'features': torch.ones(2, 3)}, folder / 'regions.pth')
    RegionFeatures.load(folder / 'regions.pth')


def of(**changes):
    """The dataclass with a value changed."""

    def build(folder):
        given = {
            'features': torch.ones(2, 3),
            'labels': torch.tensor([0, 1]),
            'ious': torch.tensor([1.0, 0.5]),
            'class_names': ('cat', 'dog'),
        }
        RegionFeatures(**{**given, **changes})

    return build


READ = {
    '`features` (N, D), `labels` (N,) from -1, `ious` (N,)': file(),
    'class names of any script': file(names=['Katze', '犬']),
    'a file of another format': file(metadata={'format': 'mine'}),
    'a file of `torch.save`': torch_file,
    'a changed tensor': file(metadata={'sha256': '0'}),
    'no `ious`': file(without=['ious']),
    'class names that are not JSON': file(metadata={'class_names': 'cat'}),
    'class names that are no list': file(metadata={'class_names': '3'}),
    'a label without a class name': file(labels=torch.tensor([0, 2, -1, 0])),
    'a label below -1': file(labels=torch.tensor([0, -2, -1, 0])),
    'labels that are floats': file(labels=torch.tensor([0.0, 1.0, 1.0, 0.0])),
    'an IoU above 1 or NaN': of(ious=torch.tensor([1.5, 0.5])),
    'features with NaN, or all zero': of(features=torch.tensor([[1.0], [0.0]])),
    'another number of labels than regions': of(labels=torch.tensor([0, 1, 1])),
    'no region': of(features=torch.ones(0, 3), labels=torch.ones(0, dtype=torch.int64), ious=torch.ones(0)),
}


def test_row(row, check):
    check(row, READ)
