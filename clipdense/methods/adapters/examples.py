"""Embeddings of labeled images, boxes and pixels, that adapters are made from.

V: views of an example, n: examples, D: joint space, K: classes, R: boxes of an image, (H, W): pixels.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from clipdense.clip.model import CLIP
from clipdense.data.batches import collate
from clipdense.data.classification.datasets import LabeledImages
from clipdense.data.labeled import BoxedImages, MaskedImages
from clipdense.data.transforms import CenterCrop, TrainCrop
from clipdense.layers.precision import at_least_fp32
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.adapters import Kind, Origin, source_digest
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image
from clipdense.utils.modules import evaluating
from clipdense.utils.progress import track

from .pixels import image_cells, image_keys

_BATCH = 64
_CELLS = 400  # cells of an image, at most, that alpha and beta are searched with
_SCALE = (0.5, 1.0)  # area of a random crop


@dataclass(frozen=True)
class Examples:
    """Embeddings with their classes.

    Args:
        views: (V, n, D), embeddings of each view of an example, as they were computed.
        labels: (n,) class indices.
        class_names: K names.
        kind: what was embedded.

    Raises:
        InputError: no examples, or embeddings that are not finite.
    """

    views: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    kind: Kind

    def __post_init__(self) -> None:
        if not len(self.labels):
            raise InputError(
                'there are no labeled examples: all images are unreadable, or all pixels ignored'
            )
        if not self.views.isfinite().all():
            raise InputError('embeddings of examples are NaN or infinite: the weights are damaged')

    @property
    def keys(self) -> Tensor:
        """(n, D): the mean of the views, normalized."""
        return F.normalize(self.views.mean(0), dim=-1)

    @property
    def all_views(self) -> tuple[Tensor, Tensor]:
        """(V * n, D) unit embeddings and their labels."""
        return F.normalize(self.views, dim=-1).flatten(0, 1), self.labels.repeat(len(self.views))


def examples_of(model: Any, part: Any, crops: int = 1, keys_per_class: int = 1, seed: int = 0) -> Examples:
    """The examples of a part of labeled data.

    Args:
        model: a CLIP for images and boxes, a detector for boxes, a segmenter for masks.
        part: ``LabeledImages``, ``BoxedImages`` or ``MaskedImages``.
        crops: random crops of an image or box; 1 is the center crop.
        keys_per_class: of a class in a mask.
        seed: of crops and of groups of pixels.

    Raises:
        InputError: a model of another kind, numbers out of range, or no examples.
    """
    for name, value in (('crops', crops), ('keys_per_class', keys_per_class)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f'{name} must be a whole number of at least 1, got {value!r}')
    with evaluating(model):
        if isinstance(part, MaskedImages):
            return _of_masks(model, part, keys_per_class, seed)
        if isinstance(part, BoxedImages) and hasattr(model, 'embed_regions'):
            return _of_regions(model, part)
        if not isinstance(model, CLIP):
            what = 'boxes' if isinstance(part, BoxedImages) else 'images'
            raise InputError(f'a {type(model).__name__} does not embed {what}: use weights of a CLIP')
        dataset = _Crops(part) if isinstance(part, BoxedImages) else part
        return _of_images(model, dataset, crops, seed)


def validation_of(model: Any, part: Any, seed: int = 0) -> Examples:
    """Examples to validate with: as ``examples_of``, but single pixels of masks."""
    if not isinstance(part, MaskedImages):
        return examples_of(model, part, seed=seed)
    with evaluating(model):
        found = [
            image_cells(model, image, mask, part.dataset.ignore_index, _CELLS, _rng(seed, number))
            for number, (image, mask) in enumerate(_masked(part, 'Embedding validation pixels'))
        ]
    cells, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Examples(cells[None], labels, part.class_names, 'pixels')


def origin_of(model: Any, kind: Kind) -> Origin:
    """The origin of adapters that are made with a model."""
    return Origin(source_digest(model), kind, '' if kind == 'images' else getattr(model, 'method', ''))


def cosine_scale(model: Any) -> float:
    """The factor on cosines in the logits of a model."""
    return model.logit_scale.exp().item() if isinstance(model, CLIP) else float(model.cosine_scale)


def zero_shot_logits(model: Any, embeddings: Tensor, classes: ClassEmbeddings) -> Tensor:
    """Unit embeddings (n, D) -> logits (n, K), scaled as the model scales them."""
    return classes.class_scores(cosine_scale(model) * embeddings @ classes.queries.to(embeddings).mT)


def _of_images(clip: CLIP, dataset: Any, crops: int, seed: int) -> Examples:
    dataset = copy.copy(dataset)  # the transform of the caller's is unchanged
    dataset.transform = CenterCrop.of(clip.preprocess) if crops == 1 else _RandomView(clip)
    dataset.seed = seed
    parameter = next(clip.parameters())
    views, labels = [], torch.empty(0)
    for crop in range(crops):
        dataset.set_epoch(crop)
        loader = DataLoader(dataset, _BATCH, collate_fn=collate)
        found, numbers = [], []
        for batch in track(loader, f'Embedding images{f" ({crop + 1} of {crops})" if crops > 1 else ""}'):
            images = clip.preprocess.normalize(batch['images'].to(parameter.device)).to(parameter.dtype)
            found.append(at_least_fp32(clip.encode_image(images)).cpu())
            numbers.append(torch.as_tensor(batch['labels']))
        views.append(torch.cat(found))
        labels = torch.cat(numbers)
    known = labels >= 0
    if not known.all():
        warnings.warn(f'{int((~known).sum())} of {len(known)} images cannot be read and are left out')
    return Examples(torch.stack(views)[:, known], labels[known], tuple(dataset.class_names), 'images')


def _of_regions(detector: Any, part: BoxedImages) -> Examples:
    found, labels = [], []
    for one in track(part.images, 'Embedding boxes'):
        image = np.asarray(read_image(one.path))
        found.append(detector.embed_regions(image, torch.tensor(one.boxes)).cpu())
        labels += one.labels
    return Examples(_joined(found)[None], torch.tensor(labels), part.class_names, 'regions')


def _of_masks(model: Any, part: MaskedImages, keys_per_class: int, seed: int) -> Examples:
    if not isinstance(model, SegmentationModel):
        raise InputError(f'a {type(model).__name__} does not embed pixels: use a segmenter')
    found, labels = [], []
    for number, (image, mask) in enumerate(_masked(part, 'Embedding pixels')):
        keys, own = image_keys(
            model, image, mask, part.dataset.ignore_index, keys_per_class, _rng(seed, number)
        )
        found.append(keys.cpu())
        labels.append(own.cpu())
    return Examples(_joined(found)[None], torch.cat(labels), part.class_names, 'pixels')


def _joined(found: list[Tensor]) -> Tensor:
    return torch.cat(found) if found else torch.zeros(0, 1)


def _masked(part: MaskedImages, title: str) -> Iterator[tuple[Tensor, Tensor]]:
    for index in track(part.indices, title):
        item = part.dataset[index]
        yield item['images'], item['samples'].mask  # type: ignore[union-attr, misc]


def _rng(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 100_003 + number)


class _RandomView:
    """A random crop, mirrored in half of the cases."""

    def __init__(self, clip: CLIP) -> None:
        self.crop = TrainCrop(clip.preprocess.image_size, _SCALE)

    def __call__(self, image: Any, rng: random.Random) -> Tensor:
        pixels = self.crop(image, rng)
        return pixels.flip(-1) if rng.random() < 0.5 else pixels


class _Crops(LabeledImages):
    """The content of each box as an image."""

    def __init__(self, part: BoxedImages) -> None:
        super().__init__(part.class_names)
        self.rows = [
            (one.path, box, label)
            for one in part.images
            for box, label in zip(one.boxes, one.labels, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> tuple[Image.Image, int]:
        path, (left, top, right, bottom), label = self.rows[index]
        image = read_image(path)
        left, top = min(int(left), image.width - 1), min(int(top), image.height - 1)
        right, bottom = max(left + 1, round(right)), max(top + 1, round(bottom))
        return image.crop((left, top, min(right, image.width), min(bottom, image.height))), label
