"""Labeled CLIP embeddings of proposed regions, in one file, for learning prompts of a detector (DetPro).

N: regions, D: joint space, K: classes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.ops import box_iou

from clipdense.registry import DATASETS
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.utils.json_files import parse_json
from clipdense.utils.progress import track
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import read_weights, weights_digest, write_weights

from .splits import choose
from .store import RegionStore

FORMAT = 'clipdense region features 1'
NO_CLASS = -1  # label of regions that overlap no object


@dataclass(frozen=True)
class RegionFeatures:
    """Embeddings of regions, and the object that each overlaps most.

    Args:
        features: (N, D), not zero.
        labels: (N,) int64, class of the object, -1 for none.
        ious: (N,) IoU with its box, 0 to 1.
        class_names: the K classes.
        teacher: digest of the image tower that computed the embeddings and of its preprocessing; '' if
            unknown.

    Raises:
        InputError: shapes or values that do not fit each other.
    """

    features: Tensor
    labels: Tensor
    ious: Tensor
    class_names: tuple[str, ...]
    teacher: str = ''

    def __post_init__(self) -> None:
        count = len(self.labels)
        shapes = (self.features.ndim, len(self.features), tuple(self.ious.shape), self.labels.ndim)
        if shapes != (2, count, (count,), 1):
            raise InputError(
                'features must be (N, D), labels and ious (N,); got '
                f'{tuple(self.features.shape)}, {tuple(self.labels.shape)} and {tuple(self.ious.shape)}'
            )
        if not count:
            raise InputError('there are no regions')
        if self.labels.dtype.is_floating_point or self.labels.dtype == torch.bool:
            raise InputError(f'labels must be integers, got {self.labels.dtype}')
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < NO_CLASS or high >= len(self.class_names):
            raise InputError(
                f'labels are {low} to {high}; they must be from {NO_CLASS} (no object) to '
                f'{len(self.class_names) - 1}, for {len(self.class_names)} class names'
            )
        if not self.ious.isfinite().all() or float(self.ious.min()) < 0 or float(self.ious.max()) > 1:
            raise InputError('ious must be from 0 to 1')
        bad = ~self.features.isfinite().all(dim=1) | (self.features == 0).all(dim=1)
        if bad.any():
            raise InputError(f'the features of region {int(bad.nonzero()[0])} are NaN, infinite or zero')

    def __len__(self) -> int:
        return len(self.labels)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: ``features`` in fp16, ``labels``, ``ious``, class names as metadata.

        Raises:
            InputError: another suffix, or a file that cannot be written.
        """
        path = Path(path)
        if path.suffix != '.safetensors':
            raise InputError(
                f'{path}: region features are written as safetensors; use {path.stem}.safetensors'
            )
        tensors = {
            'features': self.features.to(torch.float16),
            'labels': self.labels.to(torch.int64),
            'ious': self.ious.to(torch.float32),
        }
        metadata = {
            'format': FORMAT,
            'sha256': weights_digest(tensors),
            'class_names': json.dumps(list(self.class_names), ensure_ascii=False),
            'teacher': self.teacher,
        }
        write_weights(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> RegionFeatures:
        """Read a file of ``save``.

        Raises:
            CheckpointError: not such a file, or a damaged one.
            InputError: values that do not fit each other.
        """
        file = read_weights(path)
        if file.metadata.get('format') != FORMAT:
            raise CheckpointError(
                f'{path} is not a file of region features: write one with `clipdense embed region-features`'
            )
        if file.metadata.get('sha256') != weights_digest(file.tensors):
            raise CheckpointError(f'{path} is damaged: checksum mismatch; write it again')
        missing = sorted({'features', 'labels', 'ious'} - set(file.tensors))
        if missing:
            raise CheckpointError(f'{path} has no {missing[0]}; write it again')
        names = parse_json(file.metadata.get('class_names', ''), f'class_names in {path}')
        if not isinstance(names, list):
            raise CheckpointError(f'{path} is damaged: its class_names are not a list')
        features, labels, ious = (file.tensors[name].clone() for name in ('features', 'labels', 'ious'))
        try:
            known = Vocabulary(tuple(names)).class_names
            return cls(features, labels, ious, known, file.metadata.get('teacher', ''))
        except InputError as error:
            raise InputError(f'{path}: {error}') from error


@DATASETS.register_module()
class LabeledRegions(Dataset):
    """Regions of objects in a range of IoU, and some of the background, as DetPro trains on them.

    Items are ``features`` (D,) fp32 and ``labels``, K for background.

    Args:
        file: as ``RegionFeatures.load`` reads it, or the features.
        iou: a region in [iou[0], iou[1]) has the class of its object.
        background: a region with an IoU in [background[0], background[1]) is background.
        background_fraction: fraction of those that is used, chosen by ``seed``.
        seed: see above.

    Raises:
        InputError: ranges that overlap or are out of order, a fraction out of range, or no region of an
            object.

    Source: dyabel/detpro ``prompt/run.py``.
    """

    def __init__(
        self,
        file: str | Path | RegionFeatures,
        iou: tuple[float, float] = (0.5, 0.6),
        background: tuple[float, float] = (0.1, 0.5),
        background_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        regions = file if isinstance(file, RegionFeatures) else RegionFeatures.load(file)
        for name, (low, high) in (('iou', iou), ('background', background)):
            if not 0 <= low < high:
                raise InputError(f'{name} must be a range from a lower to a higher IoU, got {low} to {high}')
        if background[1] > iou[0]:
            raise InputError(
                f'background ends at {background[1]}, above the lowest IoU of objects ({iou[0]}): a region '
                'would be both'
            )
        if not 0 <= background_fraction <= 1:
            raise InputError(f'background_fraction must be from 0 to 1, got {background_fraction}')
        self.class_names, self.teacher = regions.class_names, regions.teacher
        objects = ((regions.labels != NO_CLASS) & _within(regions.ious, iou)).nonzero()[:, 0]
        if not len(objects):
            raise InputError(f'no region has an IoU from {iou[0]} to {iou[1]} with an object of a class')
        rest = _within(regions.ious, background).nonzero()[:, 0]
        order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))
        rest = rest[order[: int(len(rest) * background_fraction)]]
        self.features = regions.features[torch.cat([objects, rest])].float()  # (N, D)
        self.labels = torch.cat([regions.labels[objects], torch.full_like(rest, len(self.class_names))])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``features`` (D,) and ``labels``, a scalar."""
        return {'features': self.features[index], 'labels': self.labels[index]}


def label_regions(
    store: RegionStore, annotations: Mapping[str, Any], classes: str | Sequence[str] | None = None
) -> RegionFeatures:
    """The regions of a store, each with the class of the box that it overlaps most.

    Objects of other classes and crowds are left out, as if they were not there.

    Args:
        store: regions with their embeddings (``clipdense embed regions``).
        annotations: as ``read_coco`` returns them, of the images of the store.
        classes: see ``splits.choose``: names, 'base', or None for all.

    Raises:
        InputError: unknown classes, a store of other images or an incomplete one, or no region at all.
    """
    names, _ = choose(annotations['categories'], classes)
    place = {name: index for index, name in enumerate(names)}
    label_of = {one['id']: place[one['name']] for one in annotations['categories'] if one['name'] in place}
    store.check_images((one['id'], one['width'], one['height']) for one in annotations['images'])
    objects: dict[int, list[tuple[list[float], int]]] = defaultdict(list)
    for one in annotations['annotations']:
        if one['category_id'] in label_of and not one['iscrowd']:
            left, top, width, height = one['bbox']
            box = [left, top, left + width, top + height]
            objects[one['image_id']].append((box, label_of[one['category_id']]))
    features, labels, ious = [], [], []
    for image in track(annotations['images'], 'labeling regions'):
        regions = store[image['id']]
        label, iou = _best(torch.from_numpy(np.array(regions.boxes)), objects[image['id']])
        features.append(torch.from_numpy(np.array(regions.embeddings)))
        labels.append(label)
        ious.append(iou)
    if not any(len(one) for one in labels):
        raise InputError(f'{store.folder} has no regions in the images of the annotations')
    return RegionFeatures(torch.cat(features), torch.cat(labels), torch.cat(ious), names, store.facts.teacher)


def _best(boxes: Tensor, objects: Sequence[tuple[list[float], int]]) -> tuple[Tensor, Tensor]:
    """(n, 4) -> label and IoU (n,) of the object that each box overlaps most; the first of several."""
    if not objects or not len(boxes):
        return torch.full((len(boxes),), NO_CLASS), torch.zeros(len(boxes))
    truth = torch.tensor([box for box, _ in objects], dtype=boxes.dtype)
    iou, which = box_iou(boxes, truth).max(dim=1)
    labels = torch.tensor([label for _, label in objects])[which]
    return labels.masked_fill(iou <= 0, NO_CLASS), iou.clamp(0, 1)


def _within(ious: Tensor, between: tuple[float, float]) -> Tensor:
    return (ious >= between[0]) & (ious < between[1])
