"""Spatial regularization of class logits.  B: images, K: classes, (h, w): pixels.

The blocks are independent of the vocabulary: one 3 x 3 kernel is shared by all classes.
Source: LSeg (arXiv 2201.03546), section 4.3; isl-org/lang-seg ``modules/models/lseg_net.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError, nearest

Activation = Literal['relu', 'lrelu', 'tanh']
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    'relu': F.relu,
    'lrelu': F.leaky_relu,  # slope 0.01
    'tanh': torch.tanh,
}


class RegularizationBlock(nn.Module):
    """A shared kernel applied to each class map several times, the last time without activation.

    Args:
        depth: number of applications; 1 is a single convolution.
        activation: 'lrelu' (the release trains with it), 'relu' or 'tanh'.

    Attributes:
        joint: whether the logits of a class depend on those of others.

    Raises:
        InputError: a depth below 1 or an unknown activation.
    """

    joint = False

    def __init__(self, depth: int = 1, activation: Activation = 'lrelu') -> None:
        super().__init__()
        if depth < 1:
            raise InputError(f'depth must be at least 1, got {depth}: use block=None for no regularization')
        if activation not in _ACTIVATIONS:
            known = list(_ACTIVATIONS)
            raise InputError(
                f'unknown activation {activation!r}: use one of {known}.{nearest(activation, known)}'
            )
        self.depth, self.activation = depth, activation
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, logits: Tensor) -> Tensor:
        """(B, K, h, w) -> (B, K, h, w)."""
        activate = _ACTIVATIONS[self.activation]
        for _ in range(self.depth - 1):
            logits = activate(self.step(logits))
        return self.step(logits)

    def step(self, logits: Tensor) -> Tensor:
        """One application, before the activation."""
        return self.conv(logits.flatten(0, 1)[:, None])[:, 0].unflatten(0, logits.shape[:2])


@MODELS.register_module()
class DepthwiseBlock(RegularizationBlock):
    """Smooths each class map independently."""


@MODELS.register_module()
class BottleneckBlock(RegularizationBlock):
    """Smooths each class map and adds the maximum over all classes."""

    joint = True

    def step(self, logits: Tensor) -> Tensor:
        """One application, before the activation."""
        return super().step(logits) + logits.amax(dim=1, keepdim=True)
