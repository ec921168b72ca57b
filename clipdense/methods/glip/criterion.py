"""The losses of a batch.  B: images, A: anchors of all levels, P: anchors with a box, T: tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.utils import reduce_mean
from torch import Tensor
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32

from .assignment import BACKGROUND, assign
from .boxes import centers, decode
from .losses import centerness, giou_loss, token_focal_loss
from .structures import HeadOutput, Targets

BOX_WEIGHT = 2.0
_LEAST = 1e-6  # of the sum of centerness


def grounding_losses(
    output: HeadOutput,
    anchors: Sequence[Tensor],
    targets: Sequence[Targets],
    text_mask: Tensor,
    owner: Tensor | None = None,
) -> dict[str, Tensor]:
    """Token, box and centerness losses, each over the number of anchors with a box.

    Anchors without a box are negatives of all tokens; so are all anchors of an image without boxes.

    Args:
        output: of the head.
        anchors: of each level, (A_l, 4).
        targets: of each image.
        text_mask: (B, T), False for padding, which does not count.
        owner: (B, A) the box of each anchor; computed by default.
    """
    logits = at_least_fp32(torch.cat(output.logits, dim=1))  # (B, A, T)
    deltas = at_least_fp32(torch.cat([level.flatten(2).mT for level in output.deltas], dim=1))  # (B, A, 4)
    central = at_least_fp32(torch.cat([level.flatten(1) for level in output.centerness], dim=1))  # (B, A)
    every = torch.cat(list(anchors))  # (A, 4)
    if owner is None:
        owner = torch.stack([assign(anchors, one.boxes) for one in targets])  # (B, A)
    image, place = (owner != BACKGROUND).nonzero(as_tuple=True)  # (P,)
    boxes = torch.cat([one.boxes[own[own >= 0]] for one, own in zip(targets, owner, strict=True)])  # (P, 4)
    positive = torch.cat([one.positive[own[own >= 0]] for one, own in zip(targets, owner, strict=True)])
    tokens = torch.zeros_like(logits).index_put((image, place), positive.to(logits))
    count = reduce_mean(logits.new_tensor(float(len(image)))).clamp(min=1)
    counted = text_mask.bool()[:, None].expand_as(logits)
    token_loss = token_focal_loss(logits[counted], tokens[counted])
    inside = centerness(centers(every[place]), boxes)  # (P,)
    weight = reduce_mean(inside.sum()).clamp(min=_LEAST)
    box_loss = giou_loss(decode(deltas[image, place], every[place]), boxes, inside)
    central_loss = F.binary_cross_entropy_with_logits(central[image, place], inside, reduction='sum')
    return {
        'loss_token': token_loss / count,
        'loss_box': BOX_WEIGHT * box_loss / weight,
        'loss_centerness': central_loss / count,
    }
