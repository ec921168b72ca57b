"""Which anchors learn which box: adaptive training sample selection (ATSS).

Zhang et al., CVPR 2020 (arXiv 1912.02424).  A: anchors of an image, M: boxes of an image.

Source: microsoft/GLIP modeling/rpn/loss.py ``ATSSLossComputation.prepare_targets``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .boxes import centers, pairwise_iou

_INSIDE = 0.01  # pixels between the center of an anchor and the border of its box, at least
BACKGROUND = -1


def assign(anchors: Sequence[Tensor], boxes: Tensor, per_level: int = 9) -> Tensor:
    """The box of each anchor, all levels after each other -> (A,) int64, -1 for the background.

    Candidates of a box are the anchors nearest to it on each level.  Those learn it whose IoU with it is at
    least the mean plus the standard deviation over its candidates, and whose center is inside of it.

    Args:
        anchors: of each level, (A_l, 4).
        boxes: (M, 4); there may be none.
        per_level: candidates of a level.
    """
    every = torch.cat(list(anchors))
    if not len(boxes):
        return torch.full((len(every),), BACKGROUND, device=every.device)
    iou = pairwise_iou(every, boxes)  # (A, M)
    center = centers(every)
    distance = (center[:, None] - centers(boxes)[None]).square().sum(dim=-1)  # (A, M)
    nearest, first = [], 0
    for level in anchors:
        count = min(per_level, len(level))
        of_level = distance[first : first + len(level)].topk(count, dim=0, largest=False).indices
        nearest.append(of_level + first)
        first += len(level)
    candidates = torch.cat(nearest)  # (candidates, M)
    overlap = iou.gather(0, candidates)
    spread = overlap.std(dim=0) if len(overlap) > 1 else torch.zeros_like(overlap[0])
    around = center[candidates]  # (candidates, M, 2)
    margin = torch.cat([around - boxes[:, :2], boxes[:, 2:] - around], dim=-1).amin(dim=-1)
    chosen = (overlap >= overlap.mean(dim=0) + spread) & (margin > _INSIDE)
    value = torch.full_like(iou, -torch.inf).scatter(0, candidates, overlap.where(chosen, -torch.inf))
    best, box = value.max(dim=1)
    return box.masked_fill(best == -torch.inf, BACKGROUND)
