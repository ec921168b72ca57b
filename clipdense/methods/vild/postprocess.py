"""From scored boxes to detections.  R: regions, K: classes, n: detections."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

_CANDIDATES = 10_000  # pairs of box and class, the best of an image, that suppression looks at


class Found(NamedTuple):
    """Detections of an image, best first."""

    boxes: Tensor  # (n, 4)
    scores: Tensor  # (n,)
    class_ids: Tensor  # (n,) int64


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float | Tensor = 0.0,
    iou_threshold: float = 0.5,
    class_agnostic: bool = False,
    most: int = 300,
    candidates: int = _CANDIDATES,
) -> Found:
    """Threshold, suppress, keep the best.  Boxes are shared by all classes, so each is looked at K times.

    Args:
        boxes: (R, 4) x1, y1, x2, y2.
        scores: (R, K).
        score_threshold: detections must score more; a number, or one for each class (K,).
        iou_threshold: of two boxes that overlap by more, the better stays.
        class_agnostic: suppress across classes; otherwise only within one.
        most: n at most.
        candidates: pairs of box and class that are kept before suppression.
    """
    if isinstance(score_threshold, Tensor):
        score_threshold = score_threshold.to(scores.device)
    kept = scores > score_threshold  # (R, K)
    chosen = scores[kept]
    region, class_ids = kept.nonzero(as_tuple=True)
    if len(chosen) > candidates:
        chosen, order = chosen.topk(candidates)
        region, class_ids = region[order], class_ids[order]
    pairs = boxes[region]
    if class_agnostic:
        best = nms(pairs, chosen, iou_threshold)
    else:
        best = batched_nms(pairs, chosen, class_ids, iou_threshold)
    best = best[:most]
    return Found(pairs[best], chosen[best], class_ids[best])


def threshold_of_each_class(default: float, special: dict[int, float], classes: int) -> Tensor:
    """(K,) thresholds: one for all but those that are named by index."""
    thresholds = torch.full((classes,), default)
    for index, value in special.items():
        thresholds[index] = value
    return thresholds
