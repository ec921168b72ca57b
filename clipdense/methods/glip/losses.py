"""GLIP's losses as functions of tensors.

A: anchors, P: anchors with a box, T: tokens, B: images, R: regions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_EPS = 1e-7
_PADDING = -1e6  # logit of padding


def token_focal_loss(
    logits: Tensor, targets: Tensor, alpha: float | None = 0.25, gamma: float = 2.0
) -> Tensor:
    """The sum over anchors and tokens of the sigmoid focal loss.

    Args:
        logits: (..., T) of the tokens that count; leave out padding.
        targets: as ``logits``, 1 where an anchor belongs to a token.
        alpha: weight of positives, 1 - alpha of negatives; None for equal weights.
        gamma: exponent of the distance to the target.

    Source: microsoft/GLIP layers/sigmoid_focal_loss.py ``TokenSigmoidFocalLoss``.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction='none')
    probability = logits.sigmoid()
    hit = probability * targets + (1 - probability) * (1 - targets)
    loss = loss * (1 - hit) ** gamma
    if alpha is not None:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss.sum()


def giou_loss(found: Tensor, boxes: Tensor, weight: Tensor) -> Tensor:
    """The weighted sum of 1 - GIoU.  Areas are (x2 - x1) * (y2 - y1), as in the official loss.

    Args:
        found, boxes: (P, 4).
        weight: (P,).

    Source: microsoft/GLIP modeling/rpn/loss.py ``GIoULoss``; Rezatofighi et al., arXiv 1902.09630.
    """
    corner = torch.maximum(found[:, :2], found[:, 2:])
    found = torch.cat([found[:, :2], corner], dim=1)
    area = (found[:, 2:] - found[:, :2]).prod(dim=1) + (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    low, high = torch.maximum(found[:, :2], boxes[:, :2]), torch.minimum(found[:, 2:], boxes[:, 2:])
    common = (high - low).clamp(min=0).prod(dim=1)
    union = area - common + _EPS
    low, high = torch.minimum(found[:, :2], boxes[:, :2]), torch.maximum(found[:, 2:], boxes[:, 2:])
    hull = (high - low).prod(dim=1) + _EPS
    return ((1 - common / union + (hull - union) / hull) * weight).sum()


def centerness(anchor_centers: Tensor, boxes: Tensor) -> Tensor:
    """How central the anchors are in their boxes: (P, 2), (P, 4) -> (P,), 1 in the center, 0 at the border.

    Source: Tian et al., FCOS, arXiv 1904.01355, equation 3.
    """
    before, after = anchor_centers - boxes[:, :2], boxes[:, 2:] - anchor_centers
    share = torch.minimum(before, after) / torch.maximum(before, after)
    return share.clamp(min=0).prod(dim=1).sqrt()


def region_word_loss(similarity: Tensor, targets: Tensor, text_mask: Tensor) -> Tensor:
    """Contrast of regions and tokens of all images of a batch, in both directions; a sum over regions.

    A row is a region, a column a token.  The target distribution of a row is uniform over its tokens, that of
    a column uniform over its regions; rows and columns without any do not count.

    Args:
        similarity: (R, B * T) scaled cosines.
        targets: (R, B * T), 1 where a region is an instance of a token.
        text_mask: (B * T,), False for padding.

    Source: microsoft/GLIP modeling/rpn/loss.py, shallow contrastive loss of ``ATSSLossComputation``;
    Zhang et al., GLIPv2, equation 4.
    """
    sides = [contrast_along(similarity, targets, text_mask, dim) for dim in (1, 0)]
    return (sides[0] + sides[1]) / 2


def contrast_along(similarity: Tensor, targets: Tensor, text_mask: Tensor, dim: int) -> Tensor:
    """One direction of ``region_word_loss``: that of the regions along ``dim=1``, of the tokens along 0."""
    similarity = similarity.masked_fill(~text_mask, _PADDING)
    return -(_shares(targets, dim) * similarity.log_softmax(dim=dim)).sum()


def _shares(targets: Tensor, dim: int) -> Tensor:
    return targets / targets.sum(dim=dim, keepdim=True).clamp(min=1)
