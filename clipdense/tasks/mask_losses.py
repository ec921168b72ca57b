"""Pixel losses as functions of tensors.  B: images, K: classes, (H, W): pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pixel_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int = 255, balance: float = 0.0
) -> Tensor:
    """Cross entropy, averaged over the labeled pixels of the batch; zero if there are none.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64.
        ignore_index: label of pixels that are ignored.
        balance: 0 weights all pixels equally, 1 all classes of the batch; in general the total weight of a
            class with n pixels is n ** (1 - balance).
    """
    counted = labels != ignore_index
    if balance:
        weight = _class_weights(labels[counted], logits.shape[1], balance)  # (K,)
    else:
        weight = logits.new_ones(logits.shape[1])
    total = F.cross_entropy(
        logits.float(), labels, weight.float(), ignore_index=ignore_index, reduction='sum'
    )
    share = weight[labels[counted]].sum() if balance else counted.sum()
    return total / share.clamp(min=1e-12 if balance else 1)


def _class_weights(labels: Tensor, num_classes: int, balance: float) -> Tensor:
    """(K,) n ** -balance for a class with n pixels, 0 for absent classes."""
    counts = labels.bincount(minlength=num_classes).float()
    return torch.where(counts > 0, counts.clamp(min=1) ** -balance, 0.0)
