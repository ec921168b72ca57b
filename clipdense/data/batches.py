"""Image-to-tensor conversion, collation and random generators of samples; does not need torchvision.

(H, W): pixels.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from clipdense.clip.preprocess import image_to_tensor

ImageLike = Image.Image | Tensor


def sample_rng(seed: int, epoch: int, sample: int | str) -> random.Random:
    """The generator of one sample in one epoch; ``sample`` is an index, or a key such as 'shard/000123'."""
    return random.Random(f'{seed}/{epoch}/{sample}')


def to_tensor(image: ImageLike) -> Tensor:
    """An image -> (3, H, W) uint8.

    Pillow images keep their memory layout, channels last, which torch resizes fastest.
    """
    if isinstance(image, Tensor):
        return image
    return image_to_tensor(image if image.mode == 'RGB' else image.convert('RGB'))


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Items with the same keys -> one batch.

    Tensors of one shape are stacked (in shared memory within a worker), others stay a list; integers
    become an int64 tensor; everything else stays a list.
    """
    return {key: _join([item[key] for item in items]) for key in items[0]}


def _join(values: list[Any]) -> Any:
    if all(isinstance(value, Tensor) for value in values):
        return default_collate(values) if len({value.shape for value in values}) == 1 else values
    if all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in values):
        return torch.tensor([int(value) for value in values], dtype=torch.int64)
    return values
