"""Stochastic depth (drop path, Huang et al., arXiv 1603.09382): branches that are left out in training."""

from __future__ import annotations

import torch
from torch import Tensor

from clipdense.utils.errors import InputError


def depth_rates(last: float, layers: int) -> list[float]:
    """Drop rate of each layer, which grows linearly from 0 to that of the last one, as in timm.

    Raises:
        InputError: a rate that is not in [0, 1).
    """
    if isinstance(last, bool) or not isinstance(last, int | float) or not 0 <= last < 1:
        raise InputError(f'drop_path must be at least 0 and below 1, got {last!r}')
    return torch.linspace(0, last, layers, device='cpu').tolist()


def drop_branch(x: Tensor, rate: float) -> Tensor:
    """(B, ...) with random rows set to zero and the others scaled to keep the mean.

    Uses the same random numbers as ``torchvision.ops.stochastic_depth`` in mode 'row'.
    """
    kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - rate)
    return x * kept.div_(1 - rate)
