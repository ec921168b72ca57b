"""Anchors and box encodings.  x2 and y2 are the last pixels inside: a box is x2 - x1 + 1 wide.

A: anchors, M: boxes, (h, w): places of a level.

Source: microsoft/GLIP modeling/rpn/anchor_generator.py, modeling/box_coder.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the encoding
_MAX_GROWTH = math.log(1000 / 16)  # of the side of an anchor, natural logarithm


def grid_anchors(
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    scale: float = 8.0,
    device: torch.device | None = None,
) -> list[Tensor]:
    """One square anchor for each place -> (h * w, 4) of each level.

    Args:
        sizes: (h, w) of each level.
        strides: pixels between two places.
        scale: side of an anchor in strides.
        device: of the anchors.
    """
    found = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        reach = (scale * stride - 1) / 2
        y = (torch.arange(height, device=device) + 0.5) * stride - 0.5
        x = (torch.arange(width, device=device) + 0.5) * stride - 0.5
        center = torch.stack([*torch.meshgrid(y, x, indexing='ij')], dim=-1).flip(-1).reshape(-1, 2)
        found.append(torch.cat([center - reach, center + reach], dim=1))
    return found


def centers(boxes: Tensor) -> Tensor:
    """(A, 4) -> (A, 2) x, y."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(A, 4) boxes relative to their anchors (A, 4) -> (A, 4) deltas."""
    side, own = boxes[:, 2:] - boxes[:, :2] + 1, anchors[:, 2:] - anchors[:, :2] + 1
    shift = (centers(boxes) - centers(anchors)) / own
    return torch.cat([shift, (side / own).log()], dim=1) * anchors.new_tensor(WEIGHTS)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """(..., A, 4) deltas of anchors (A, 4) -> (..., A, 4) boxes."""
    deltas = deltas / anchors.new_tensor(WEIGHTS)
    own = anchors[:, 2:] - anchors[:, :2] + 1
    center = deltas[..., :2] * own + centers(anchors)
    reach = (deltas[..., 2:].clamp(max=_MAX_GROWTH).exp() * own - 1) / 2
    return torch.cat([center - reach, center + reach], dim=-1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 4) boxes inside of an image of (H, W) pixels."""
    height, width = size
    limit = boxes.new_tensor([width - 1, height - 1, width - 1, height - 1])
    return boxes.clamp(min=0).minimum(limit)


def pairwise_iou(one: Tensor, other: Tensor) -> Tensor:
    """(A, 4), (M, 4) -> (A, M)."""
    corner = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    side = (corner - torch.maximum(one[:, None, :2], other[None, :, :2]) + 1).clamp(min=0)
    common = side.prod(dim=-1)
    area = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(dim=-1) for boxes in (one, other)]
    return common / (area[0][:, None] + area[1][None] - common)


def inclusive(boxes: Tensor) -> Tensor:
    """Boxes whose x2, y2 are borders -> boxes whose x2, y2 are the last pixels inside."""
    return torch.cat([boxes[..., :2], (boxes[..., 2:] - 1).maximum(boxes[..., :2])], dim=-1)


def exclusive(boxes: Tensor) -> Tensor:
    """The inverse of ``inclusive``."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] + 1], dim=-1)
