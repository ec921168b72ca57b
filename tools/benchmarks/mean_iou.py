"""Counting a segmentation: one histogram of pairs against a loop over classes."""

from __future__ import annotations

from statistics import median

import numpy as np
import torch

from clipdense.evaluation.mean_iou import confusion_matrix
from clipdense.evaluation.mean_iou import mean_iou as scores_of

from .harness import Found, Options, Row, interleave

CLASSES, SIDE, IMAGES, IGNORED = 150, 512, 16, 255


def mean_iou(options: Options) -> Found:
    """Intersections and unions of 150 classes on 512 x 512 pixels, against a loop over classes in numpy."""
    pairs = [labeled(seed) for seed in range(IMAGES)]
    tensors = [
        (torch.from_numpy(a).to(options.device), torch.from_numpy(b).to(options.device)) for a, b in pairs
    ]

    def ours() -> torch.Tensor:
        return sum(confusion_matrix(a, b, CLASSES, IGNORED) for a, b in tensors)

    def peer() -> tuple[np.ndarray, np.ndarray]:
        counts = [loop_over_classes(a, b) for a, b in pairs]
        return sum(inter for inter, _ in counts), sum(union for _, union in counts)

    inter, union = peer()
    difference = np.abs(scores_of(ours()).iou.cpu().numpy() - inter / union).max()
    if not difference < 1e-12:
        raise SystemExit(f'the IoUs differ by {difference:.2g}')
    times = interleave(ours, peer, options)
    clock = 'cpu' if options.device == 'cpu' else 'wall'
    rows = [
        Row(f'an image, {clock}', *(median(getattr(side, clock)) / IMAGES for side in times), 's'),
        Row('an image, wall', *(median(side.wall) / IMAGES for side in times), 's'),
    ]
    return rows, {'classes': CLASSES, 'pixels': f'{SIDE} x {SIDE}', 'IoUs': 'the same'}


def labeled(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a mask: patches of classes, a tenth of the pixels wrong, some of them ignored."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, CLASSES, (16, 16)).repeat(SIDE // 16, 0).repeat(SIDE // 16, 1)
    prediction = np.where(rng.random(mask.shape) < 0.1, rng.integers(0, CLASSES, mask.shape), mask)
    mask[:8] = IGNORED
    return prediction, mask


def loop_over_classes(prediction: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Comparisons of the whole image for each class: (K,) intersections, (K,) unions."""
    kept = mask != IGNORED
    prediction, mask = prediction[kept], mask[kept]
    inter, union = np.zeros(CLASSES, np.int64), np.zeros(CLASSES, np.int64)
    for index in range(CLASSES):
        found, true = prediction == index, mask == index
        inter[index] = np.count_nonzero(found & true)
        union[index] = np.count_nonzero(found | true)
    return inter, union
