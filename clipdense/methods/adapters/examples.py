"""Embeddings of labeled images, boxes and pixels, that adapters are made from.

V: views of an example, n: examples, D: joint space, K: classes, R: boxes of an image, (H, W): pixels.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from clipdense.clip.model import CLIP
from clipdense.data.batches import collate
from clipdense.data.faults import FaultBudget
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

from .boxes import BoxContents, moved
from .pixels import Cells, masked_cells

_BATCH = 64
_CELLS = 400  # cells of an image, at most, that alpha and beta are searched with
_SCALE = (0.5, 1.0)  # area of a random crop
SAMPLES = {'masks': 100, 'boxes': 10}  # by default, of each class in a mask or of each box


@dataclass(frozen=True)
class Examples:
    """Embeddings with their classes.

    Args:
        views: (V, n, D), embeddings of each view of an example, as they were computed.
        labels: (n,) class indices.
        class_names: K names.
        kind: what was embedded.
        samples: (s, D) unit embeddings and (s,) labels that are trained on instead of the views.

    Raises:
        InputError: no examples, or embeddings that are not finite.
    """

    views: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    kind: Kind
    samples: tuple[Tensor, Tensor] | None = None

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
    def training(self) -> tuple[Tensor, Tensor]:
        """Unit embeddings and their labels: the samples, or all views (V * n, D)."""
        if self.samples is not None:
            return self.samples
        return F.normalize(self.views, dim=-1).flatten(0, 1), self.labels.repeat(len(self.views))


def examples_of(
    model: Any,
    part: Any,
    crops: int = 1,
    keys_per_class: int = 1,
    samples: int | None = 0,
    seed: int = 0,
) -> Examples:
    """The examples of a part of labeled data.

    Args:
        model: a CLIP for images and boxes, a detector for boxes, a segmenter for masks.
        part: ``LabeledImages``, ``BoxedImages`` or ``MaskedImages``.
        crops: random crops of an image or box; 1 is the center crop.
        keys_per_class: of a class in a mask.
        samples: to train on: pixels of each class in each mask, or moved copies of each box; None for
            ``SAMPLES``, 0 for none.  Of images the crops are trained on.
        seed: of crops, of groups of pixels and of samples.

    Raises:
        InputError: a model of another kind, numbers out of range, samples of images, or no examples.
    """
    _check_numbers(crops, keys_per_class, samples)
    with evaluating(model):
        if isinstance(part, MaskedImages):
            count = SAMPLES['masks'] if samples is None else samples
            return _of_masks(model, part, keys_per_class, count, seed)
        boxed = isinstance(part, BoxedImages)
        count = (SAMPLES['boxes'] if boxed else 0) if samples is None else samples
        if boxed and hasattr(model, 'embed_regions'):
            return _of_regions(model, part, count, seed)
        if not isinstance(model, CLIP):
            what = 'boxes' if boxed else 'images'
            raise InputError(f'a {type(model).__name__} does not embed {what}: use weights of a CLIP')
        if boxed:
            return _of_contents(model, part, crops, count, seed)
        if count:
            raise InputError(
                'samples are of masks and boxes: images are trained on their random crops, crops=N'
            )
        return _of_images(model, part, crops, seed)


def validation_of(model: Any, part: Any, seed: int = 0) -> Examples:
    """Examples to validate with: as ``examples_of``, but single pixels of masks."""
    if not isinstance(part, MaskedImages):
        return examples_of(model, part, seed=seed)
    with evaluating(model):
        found = [
            cells.drawn(_CELLS, rng)
            for cells, rng in _cells(model, part, seed, 'Embedding validation pixels')
        ]
    cells, labels = (_joined(list(parts)) for parts in zip(*found, strict=True))
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
    dataset.faults = faults = FaultBudget('images', max_fraction=1.0, log=False)  # said below, once
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
        count = f'{int((~known).sum())} of {len(known)}'
        warnings.warn(
            f'{count} images cannot be read and are left out: {faults.last.removesuffix(" (image)")}'
        )
    return Examples(torch.stack(views)[:, known], labels[known], tuple(dataset.class_names), 'images')


def _of_contents(clip: CLIP, part: BoxedImages, crops: int, samples: int, seed: int) -> Examples:
    """The contents of boxes as images; samples are those of moved boxes."""
    found = _of_images(clip, BoxContents(part), crops, seed)
    if not samples:
        return found
    return replace(found, samples=_of_images(clip, BoxContents(moved(part, samples, seed)), 1, seed).training)


def _of_regions(detector: Any, part: BoxedImages, samples: int, seed: int) -> Examples:
    keys, extra = [], []
    others = moved(part, samples, seed)
    for one, other in zip(track(part.images, 'Embedding boxes'), others.images, strict=True):
        image = np.asarray(read_image(one.path))
        edges = torch.tensor(image.shape[1::-1] * 2)
        boxes = torch.tensor([*one.boxes, *other.boxes])
        boxes[len(one.boxes) :] = boxes[len(one.boxes) :].clamp(min=0).minimum(edges)
        rows = detector.embed_regions(image, boxes).cpu()
        keys.append(rows[: len(one.boxes)])
        extra.append(rows[len(one.boxes) :])
    labels, own = (
        torch.tensor([label for one in each.images for label in one.labels]) for each in (part, others)
    )
    trained = (_joined(extra), own) if samples else None
    return Examples(_joined(keys)[None], labels, part.class_names, 'regions', trained)


def _of_masks(model: Any, part: MaskedImages, keys_per_class: int, samples: int, seed: int) -> Examples:
    if not isinstance(model, SegmentationModel):
        raise InputError(f'a {type(model).__name__} does not embed pixels: use a segmenter')
    keys, trained = [], []
    for cells, rng in _cells(model, part, seed, 'Embedding pixels'):
        keys.append(cells.keys(keys_per_class, rng))
        trained.append(cells.drawn_by_class(samples, rng))
    rows, labels = (_joined(list(parts)) for parts in zip(*keys, strict=True))
    pixels, classes = (_joined(list(parts)) for parts in zip(*trained, strict=True))
    drawn = (pixels, classes) if samples else None
    return Examples(rows[None], labels, part.class_names, 'pixels', drawn)


def _cells(model: Any, part: MaskedImages, seed: int, title: str) -> Iterator[tuple[Cells, torch.Generator]]:
    """The cells of each image, with the generator that further draws from it use."""
    for number, (image, mask) in enumerate(_masked(part, title)):
        rng = torch.Generator().manual_seed(seed * 100_003 + number)
        yield masked_cells(model, image, mask, part.dataset.ignore_index, rng), rng


def _joined(found: list[Tensor]) -> Tensor:
    """Rows of images one after the other; images without any have no dimension."""
    found = [rows for rows in found if len(rows)]
    return torch.cat(found) if found else torch.zeros(0, 1)


def _masked(part: MaskedImages, title: str) -> Iterator[tuple[Tensor, Tensor]]:
    for index in track(part.indices, title):
        item = part.dataset[index]
        yield item['images'], item['samples'].mask  # type: ignore[union-attr, misc]


class _RandomView:
    """A random crop, mirrored in half of the cases."""

    def __init__(self, clip: CLIP) -> None:
        self.crop = TrainCrop(clip.preprocess.image_size, _SCALE)

    def __call__(self, image: Any, rng: random.Random) -> Tensor:
        pixels = self.crop(image, rng)
        return pixels.flip(-1) if rng.random() < 0.5 else pixels


def _check_numbers(crops: Any, keys_per_class: Any, samples: Any) -> None:
    for name, value, least in (
        ('crops', crops, 1),
        ('keys_per_class', keys_per_class, 1),
        ('samples', 0 if samples is None else samples, 0),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f'{name} must be a whole number of at least {least}, got {value!r}')
