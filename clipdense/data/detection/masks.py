"""Masks of detections, from masks of their boxes.  n: detections, S: side of a mask, (H, W): pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from torch import Tensor

LARGEST = 2 << 30  # bytes of the masks of a batch, at most


def masks_fit(counts: Sequence[int], sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether the masks of a batch are small enough to be made.

    Args:
        counts: detections of each image.
        sizes: (H, W) of each image.

    Warns:
        UserWarning: they are not.
    """
    needed = sum(count * height * width for count, (height, width) in zip(counts, sizes, strict=True))
    if needed <= LARGEST:
        return True
    height, width = sizes[0]
    warnings.warn(
        f'detections without masks: {sum(counts)} masks of {width} x {height} pixels take '
        f'{needed / 1e9:.1f} GB; resize the image, raise score_threshold or lower max_detections',
        stacklevel=3,
    )
    return False


def paste(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Masks of boxes -> masks of the image, (n, H, W) bool.

    Args:
        probabilities: (n, S, S) in the boxes.
        boxes: (n, 4) x1, y1, x2, y2 in pixels of the image.
        size: (H, W) of the image.
        threshold: pixels with at least this probability belong to the object.
    """
    found = torch.zeros(len(boxes), *size, dtype=torch.bool, device=boxes.device)
    for row, (mask, box) in enumerate(zip(probabilities[:, None, None], boxes[:, None], strict=True)):
        part, (rows, columns) = _do_paste_mask(mask, box, *size, skip_empty=True)
        found[row, rows, columns] = part[0] >= threshold
    return found
