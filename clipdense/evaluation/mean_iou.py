"""Intersection over union of segmentations, over a whole dataset.  K: classes, (H, W): pixels.

Intersections and unions are added up over all images before they are divided, as PASCAL VOC and its
successors do.  A class that is in no label and in no prediction has no value: it is left out of the means.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..utils.errors import InputError


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
    return IouScores(iou, accuracy, mean_of(iou), mean_of(accuracy), pixel_accuracy.item(), counted)


def foreground_iou(confusion: Tensor, background: int | None) -> float:
    """Mean IoU of the classes that occur in the labels and are not the background; NaN where none does.

    Classes that are only predicted lower the IoU of those they take pixels from and do not count themselves,
    so that names that are offered and nowhere to be seen cost what they draw away and no more.
    """
    shown = confusion.sum(1) > 0
    if background is not None:
        shown[background] = False
    return float(mean_iou(confusion).iou[shown].mean())


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


def mean_of(values: Tensor) -> float:
    """Mean of what is not NaN; NaN where nothing is."""
    return values.nanmean().item()


def harmonic_mean(first: float, second: float) -> float:
    """Of two shares; 0 where both are 0."""
    return 2 * first * second / (first + second) if first + second else 0.0


def percent(share: float) -> str:
    """In percent, six characters wide; n/a where it is NaN."""
    return '   n/a' if math.isnan(share) else f'{100 * share:6.2f}'
