"""Intersection over union over a dataset.  K: classes, (H, W): pixels.

Intersections and unions are summed over all images before division, as in PASCAL VOC.  A class that is in no
label and no prediction has no value and is excluded from the means.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..utils.errors import InputError


class IouScores(NamedTuple):
    """Scores as fractions; NaN if undefined."""

    iou: Tensor  # (K,) float64
    accuracy: Tensor  # (K,) float64, fraction of labeled pixels of a class that are correct
    mean_iou: float
    mean_accuracy: float
    pixel_accuracy: float
    counted: int  # number of classes with an IoU


def confusion_matrix(
    prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int | None = 255
) -> Tensor:
    """Count pixels by label and prediction.

    Args:
        prediction: integers 0 ... K - 1 of any shape.
        target: integers of the same shape.
        num_classes: K.
        ignore_index: label of pixels that do not count; None for no such label.

    Returns:
        (K, K) int64, rows are labels and columns predictions.

    Raises:
        InputError: shapes differ, or a label or prediction is out of range or not an integer.
    """
    if prediction.shape != target.shape:
        raise InputError(
            f'the prediction has shape {tuple(prediction.shape)}, but the mask {tuple(target.shape)}'
        )
    for what, values in (('prediction', prediction), ('mask', target)):
        if values.is_floating_point() or values.is_complex():
            raise InputError(f'the {what} must be integers, class indices, got {values.dtype}')
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
    # If the ignored label is larger than the last class, its pixels are counted and their row is dropped,
    # which is cheaper than masking the images.
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
    """Mean IoU of the classes in the labels except the background; NaN if there are none.

    Classes that are only predicted do not count; they lower the IoU of the classes of these pixels.
    """
    shown = confusion.sum(1) > 0
    if background is not None:
        shown[background] = False
    return float(mean_iou(confusion).iou[shown].mean())


def _within(values: Tensor, highest: int) -> bool:
    low, high = values.aminmax()
    return int(low) >= 0 and int(high) <= highest


def _out_of_range(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int | None) -> str:
    """The message for values out of range, with their counts."""
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
    """Mean of the values that are not NaN; NaN if all are."""
    return values.nanmean().item()


def harmonic_mean(first: float, second: float) -> float:
    """Harmonic mean of two fractions; 0 if both are 0."""
    return 2 * first * second / (first + second) if first + second else 0.0


def percent(share: float) -> str:
    """In percent, six characters wide; n/a for NaN."""
    return '   n/a' if math.isnan(share) else f'{100 * share:6.2f}'
