"""Affinities of embeddings with the keys of a cache, summed by class, in bounded memory.

n: embeddings, N: keys, D: joint space, K: classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BYTES = 32 << 20  # of the affinities (N, n) that exist at a time


def class_affinity(
    embeddings: Tensor, keys: Tensor, classes: Tensor, weights: Tensor, beta: float, num_classes: int
) -> Tensor:
    """The sum over the keys of each class of weight * exp(-beta (1 - x . k)).

    Without gradients, embeddings are processed in chunks whose affinities take 32 MiB.

    Args:
        embeddings: (..., D), unit.
        keys: (N, D).
        classes: (N,), class of each key.
        weights: (N,), factor on each key.
        beta: sharpness.
        num_classes: K.

    Returns:
        (..., K).

    Source: Zhang et al., Tip-Adapter (arXiv 2207.09519), equation 4.
    """
    rows = embeddings.reshape(-1, embeddings.shape[-1])  # (n, D)
    if torch.is_grad_enabled() and (keys.requires_grad or rows.requires_grad):
        affinity = ((keys @ rows.mT - 1) * beta).exp() * weights[:, None]  # (N, n)
        sums = rows.new_zeros(num_classes, len(rows)).index_add(0, classes, affinity)
        return sums.mT.unflatten(0, embeddings.shape[:-1])
    sums = rows.new_zeros(num_classes, len(rows))
    step = max(1, _BYTES // (rows.element_size() * max(1, len(keys))))
    for first in range(0, len(rows), step):
        affinity = (keys @ rows[first : first + step].mT).sub_(1).mul_(beta).exp_().mul_(weights[:, None])
        sums[:, first : first + step].index_add_(0, classes, affinity)
    return sums.mT.unflatten(0, embeddings.shape[:-1])
