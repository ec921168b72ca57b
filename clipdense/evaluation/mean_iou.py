"""Intersection over union of segmentations, over a whole dataset.  K: classes, (H, W): pixels.

Intersections and unions are added up over all images before they are divided, as PASCAL VOC and its
successors do.  A class that is in no label and in no prediction has no value: it is left out of the means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from ..registry import METRICS
from ..structures import SegmentationSample
from ..utils.errors import InputError
from ..vocab.vocabulary import Vocabulary


class IouScores(NamedTuple):
    """Scores as shares of 1; NaN where there is nothing to score."""

    iou: Tensor  # (K,) float64
    accuracy: Tensor  # (K,) float64, share of a class's labelled pixels that were found
    mean_iou: float
    mean_accuracy: float
    pixel_accuracy: float
    counted: int  # classes that have an IoU


def confusion_matrix(
    prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int | None = 255
) -> Tensor:
    """Count pixels by label and prediction.

    Args:
        prediction: integers 0 ... K - 1 of any shape.
        target: integers of the same shape.
        num_classes: K.
        ignore_index: label of pixels that do not count; None where there is none.

    Returns:
        (K, K) int64, rows are labels and columns predictions.

    Raises:
        InputError: shapes differ, or a label or prediction is out of range.
    """
    if prediction.shape != target.shape:
        raise InputError(
            f'the prediction is {tuple(prediction.shape)}, the mask {tuple(target.shape)}: they must be equal'
        )
    target = target.to(prediction.device, torch.int64).flatten()
    prediction = prediction.to(torch.int64).flatten()
    behind = ignore_index is not None and num_classes <= ignore_index < num_classes + 256
    if ignore_index is not None and not behind:
        kept = target != ignore_index
        target, prediction = target[kept], prediction[kept]
    if not target.numel():
        return target.new_zeros(num_classes, num_classes)
    highest = ignore_index if behind and ignore_index is not None else num_classes - 1
    if not (_within(prediction, num_classes - 1) and _within(target, highest)):
        raise InputError(_out_of_range(prediction, target, num_classes, ignore_index))
    # Where the ignored label comes behind the last class, its pixels are counted too, and cut off with the
    # rows behind the last: that is cheaper than taking them out of the images.
    counts = torch.add(prediction, target, alpha=num_classes).bincount(minlength=(highest + 1) * num_classes)
    confusion = counts.view(highest + 1, num_classes)
    if confusion[num_classes:highest].any():
        raise InputError(_out_of_range(prediction, target, num_classes, ignore_index))
    return confusion[:num_classes]


def mean_iou(confusion: Tensor) -> IouScores:
    """Scores of a (K, K) matrix of pixel counts, rows labels and columns predictions."""
    confusion = confusion.double()
    hits, labelled = confusion.diagonal(), confusion.sum(1)
    iou = hits / (labelled + confusion.sum(0) - hits)  # 0 / 0 is NaN: absent from labels and predictions
    accuracy = hits / labelled
    pixel_accuracy = hits.sum() / labelled.sum()
    counted = int((~iou.isnan()).sum())
    return IouScores(iou, accuracy, _mean(iou), _mean(accuracy), pixel_accuracy.item(), counted)


@METRICS.register_module()
class MeanIoU(BaseMetric):
    """mIoU, pixel accuracy and mean accuracy of a dataset, and mIoU of its groups of classes.

    Every process keeps the few cells of each image's matrix, not one sum, so that images that a
    distributed sampler repeats for padding are counted once.

    Args:
        ignore_index: label of pixels that do not count.
        vocabulary: the classes; the dataset's by default.
        groups: class names by group, for an mIoU of each; by default base and novel of a vocabulary that has
            novel classes. Where there are both, their harmonic mean is given too.
        prefix: before every name, as in ``val_unseen/mIoU``.
        collect_device: 'cpu' or 'gpu', where results of several processes meet.

    Attributes:
        scores: the last evaluation's, with the values of each class; None before.
    """

    default_prefix = ''  # none is wanted; without it MMEngine warns

    def __init__(
        self,
        ignore_index: int = 255,
        vocabulary: Vocabulary | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        prefix: str | None = None,
        collect_device: str = 'cpu',
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ignore_index = ignore_index
        self.scores: IouScores | None = None
        self._vocabulary = vocabulary
        self._groups = groups

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes that indices stand for."""
        vocabulary = self._vocabulary or (self.dataset_meta or {}).get('vocabulary')
        if vocabulary is None:
            raise InputError('MeanIoU needs a vocabulary, or a dataset whose metainfo has one')
        return vocabulary

    def process(self, data_batch: Any, data_samples: Sequence[SegmentationSample]) -> None:
        """Count a batch.

        Args:
            data_batch: not used.
            data_samples: with mask and prediction.

        Raises:
            InputError: a sample without mask, or as ``confusion_matrix``, naming the image.
        """
        size = len(self.vocabulary)
        for sample in data_samples:
            name = sample.image_path or 'an image'
            if sample.mask is None or sample.prediction is None:
                missing = 'mask' if sample.mask is None else 'prediction'
                raise InputError(f'{name} has no {missing}: mIoU needs labelled and segmented images')
            try:
                confusion = confusion_matrix(sample.prediction, sample.mask, size, self.ignore_index)
            except InputError as error:
                raise InputError(f'{name}: {error}') from error
            counts = confusion.flatten().cpu()
            cells = counts.nonzero().flatten()
            self.results.append((cells, counts[cells]))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Add the images up and score them; the table of classes goes to the log."""
        size = len(self.vocabulary)
        total = torch.zeros(size * size, dtype=torch.int64)
        for cells, counts in results:
            total.index_add_(0, cells, counts)
        self.scores = mean_iou(total.view(size, size))
        print_log('\n' + self.table(), logger='current')
        metrics = {
            'mIoU': self.scores.mean_iou,
            'pixel_accuracy': self.scores.pixel_accuracy,
            'mean_accuracy': self.scores.mean_accuracy,
            'classes_counted': float(self.scores.counted),
        }
        by_group = {name: _mean(self.scores.iou[ids]) for name, ids in self._group_ids().items()}
        metrics |= {f'{name}/mIoU': value for name, value in by_group.items()}
        if {'base', 'novel'} <= by_group.keys():
            metrics['harmonic_mIoU'] = _harmonic(by_group['base'], by_group['novel'])
        return metrics

    def table(self) -> str:
        """The last evaluation, one class a line."""
        if self.scores is None:
            return 'not evaluated yet'
        names = self.vocabulary.class_names
        width = max(len('class'), *map(len, names))
        lines = [f'{"class":<{width}}  {"IoU":>6}  {"found":>6}']
        for name, iou, accuracy in zip(names, self.scores.iou, self.scores.accuracy, strict=True):
            lines.append(f'{name:<{width}}  {_percent(iou.item())}  {_percent(accuracy.item())}')
        absent = len(names) - self.scores.counted
        note = f'; {absent} of {len(names)} are in no label and no prediction (n/a)' if absent else ''
        mean = f'{_percent(self.scores.mean_iou)}  {_percent(self.scores.mean_accuracy)}'
        return '\n'.join([*lines, f'{"mean":<{width}}  {mean}  over {self.scores.counted} classes{note}'])

    def _group_ids(self) -> dict[str, list[int]]:
        groups = self._groups
        if groups is None:
            vocabulary = self.vocabulary
            groups = {'base': vocabulary.base, 'novel': tuple(vocabulary.novel)} if vocabulary.novel else {}
        return {group: [self.vocabulary.index(name) for name in names] for group, names in groups.items()}


def _within(values: Tensor, highest: int) -> bool:
    low, high = values.aminmax()
    return int(low) >= 0 and int(high) <= highest


def _out_of_range(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int | None) -> str:
    """Which values are wrong, and how often."""
    bad_prediction = not _within(prediction, num_classes - 1)
    what, values = ('predictions', prediction) if bad_prediction else ('mask labels', target)
    allowed = set(range(num_classes))
    also = ''
    if ignore_index is not None and not bad_prediction:
        allowed.add(ignore_index)
        also = f', {ignore_index} is ignored'
    found = zip(*(part.tolist() for part in values.unique(return_counts=True)), strict=True)
    wrong = [f'{value} ({count} pixels)' for value, count in found if value not in allowed]
    rule = f'{num_classes} classes are 0 to {num_classes - 1}{also}'
    return f'{what} out of range: {", ".join(wrong[:10])}; {rule}'


def _mean(values: Tensor) -> float:
    """Mean of what is not NaN; NaN where nothing is."""
    return values.nanmean().item()


def _harmonic(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second else 0.0


def _percent(share: float) -> str:
    return '   n/a' if math.isnan(share) else f'{100 * share:6.2f}'
