"""Scores of zero-shot and few-shot segmentation over episodes.  K: classes of the fold, (H, W): pixels.

Source: HSNet's harness (juhongm999/hsnet ``common/evaluation.py``), as isl-org/lang-seg uses it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from ..registry import METRICS
from ..utils.errors import InputError
from .mean_iou import confusion_matrix


class FoldScores(NamedTuple):
    """Scores as fractions."""

    iou: Tensor  # (K,) float64, of each class against its background
    mean_iou: float
    fb_iou: float


def fold_scores(counts: Tensor) -> FoldScores:
    """Pixel counts (K, 2, 2) of each class, rows labels and columns predictions -> scores.

    mIoU is the mean foreground IoU over classes; a class without episodes counts as 0.  FB-IoU is the mean of
    background and foreground IoU, of counts summed over classes.
    """
    hits = counts.diagonal(dim1=1, dim2=2).double()  # (K, 2): background, class
    union = counts.sum(2).double() + counts.sum(1) - hits
    iou = hits[:, 1] / union[:, 1].clamp(min=1)
    both = hits.sum(0) / union.sum(0).clamp(min=1)
    return FoldScores(iou, float(iou.mean()), float(both.mean()))


@METRICS.register_module()
class FoldIoU(BaseMetric):
    """mIoU and FB-IoU of a fold, with the IoU of each class.

    Args:
        class_ids: the fold's classes; the dataset's by default.
        ignore_index: label of pixels that do not count.
        prefix: of every name.
        collect_device: 'cpu' or 'gpu', where results of several processes are gathered.

    Attributes:
        scores: of the last evaluation; None before.
    """

    default_prefix = ''  # empty: MMEngine warns without it

    def __init__(
        self,
        class_ids: Sequence[int] | None = None,
        ignore_index: int = 255,
        prefix: str | None = None,
        collect_device: str = 'cpu',
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self._class_ids, self.ignore_index = class_ids, ignore_index
        self.scores: FoldScores | None = None

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The fold's classes."""
        found = self._class_ids if self._class_ids is not None else (self.dataset_meta or {}).get('class_ids')
        if not found:
            raise InputError('FoldIoU needs class_ids, or a dataset of episodes whose metainfo has them')
        return tuple(found)

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Count a batch.

        Args:
            data_batch: not used.
            data_samples: with ``class_id``, and mask and prediction of 0 and 1.

        Raises:
            InputError: a sample without them, or of a class outside the fold.
        """
        for sample in data_samples:
            name = sample.image_path or 'an image'
            if sample.mask is None or sample.prediction is None:
                raise InputError(f'{name} has no mask or no prediction; FoldIoU needs both')
            if sample.class_id not in self.class_ids:
                raise InputError(
                    f'{name} has class {sample.class_id}, which is not in class_ids {self.class_ids}'
                )
            counts = confusion_matrix(sample.prediction, sample.mask, 2, self.ignore_index)
            self.results.append((sample.class_id, counts.flatten().tolist()))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Sum the counts of episodes by class and score them."""
        place = {class_id: at for at, class_id in enumerate(self.class_ids)}
        total = torch.zeros(len(place), 4, dtype=torch.int64)
        for class_id, counts in results:
            total[place[class_id]] += torch.tensor(counts)
        absent = [
            class_id for class_id, counts in zip(self.class_ids, total, strict=True) if not counts.sum()
        ]
        if absent:
            print_log(
                f'classes {absent} have no episodes and count as 0 in the mean IoU',
                logger='current',
                level=logging.WARNING,
            )
        self.scores = fold_scores(total.view(-1, 2, 2))
        names = (self.dataset_meta or {}).get('class_names')
        by_class = {
            f'iou/{names[at] if names else at}': iou
            for at, iou in zip(self.class_ids, self.scores.iou.tolist(), strict=True)
        }
        return {'mIoU': self.scores.mean_iou, 'FB-IoU': self.scores.fb_iou, **by_class}
