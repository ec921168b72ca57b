"""ViLD as functions of tensors.  R: regions, K: classes, Q: queries, D: joint space.

Source: tensorflow/tpu ``projects/vild/modeling/{vild_head,vild_losses,vild_model}.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32, no_autocast


def region_logits(
    region_embeddings: Tensor, text_embeddings: Tensor, background: Tensor, temperature: float
) -> Tensor:
    """Cosines over the temperature (section 3.2).

    Args:
        region_embeddings: (R, D), of any norm.
        text_embeddings: (K, D), of any norm.
        background: (D,), of any norm.
        temperature: the divisor.

    Returns:
        (R, K + 1), fp32 also under autocast, since the temperature amplifies rounding errors; the last column
        is background.
    """
    with no_autocast(region_embeddings.device):
        rows = at_least_fp32(torch.cat([text_embeddings, background[None]]))  # (K + 1, D)
        regions = F.normalize(at_least_fp32(region_embeddings), dim=-1)  # (R, D)
        return regions @ F.normalize(rows, dim=-1).mT / temperature


def mask_novel(logits: Tensor, novel: Tensor) -> Tensor:
    """Exclude novel classes from the softmax in training.

    Args:
        logits: (R, K + 1), background last.
        novel: (K,) bool.
    """
    return logits.masked_fill(F.pad(novel, (0, 1)), -torch.inf)


def valid_regions(boxes: Tensor) -> Tensor:
    """(R, 4) -> (R,) bool: False for padding (-1) and boxes that were cropped away (all 0)."""
    return boxes.amax(dim=-1) > 0


def distillation_loss(region_embeddings: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """L1 distance of unit vectors, summed over D, mean over the valid regions of the whole batch (3.3).

    Args:
        region_embeddings: (R, D), of any norm.
        teacher: (R, D), of any norm.
        valid: (R,) bool; all by default.

    Returns:
        A scalar, 0 without a valid region.
    """
    distance = (F.normalize(region_embeddings, dim=-1) - F.normalize(teacher, dim=-1)).abs().sum(-1)  # (R,)
    if valid is not None:
        distance = distance[valid]
    return distance.sum() / max(len(distance), 1)


def class_probabilities(logits: Tensor) -> Tensor:
    """(R, K + 1) -> (R, K): softmax over the classes and the background, which is then dropped."""
    return logits.softmax(dim=-1)[:, :-1]


def ensemble(text: Tensor, image: Tensor, novel: Tensor) -> Tensor:
    """The weighted geometric mean of two heads (section 3.4, lambda = 2/3).

    Args:
        text: (R, K) probabilities of the text head.
        image: (R, K) probabilities of the image head, without background.
        novel: (K,) bool; the image head has the larger weight for these, the text head for the others.
    """
    return (text * image * torch.where(novel, image, text)) ** (1 / 3)
