"""What the self-supervised parts of SLIP have in common.  B: images, V: views, C: width, E: head's output.

A partner sees the image tower through its features.  Its head belongs to the loss: it is applied once to the
features of the whole batch, so that batch norm has the statistics of the whole batch also where the tower
encodes the batch in parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from clipdense.clip.dense import Tower
from clipdense.utils.errors import InputError


class Partner(nn.Module):
    """Base of self-supervised losses on the image tower of a CLIP.

    Attributes:
        views: V, augmented views of each image that it needs.
        least: images over all processes that it needs for a step.
        reason: why, for the message.
    """

    views = 2
    least = 2
    reason = 'batch norm of the head needs several images'

    def features(self, tower: Tower, views: Tensor) -> tuple[Tensor, ...]:
        """Views (b, V, 3, H, W) of a micro-batch -> pooled features of each view, (b, C), with gradient."""
        return tuple(tower.pooled(views[:, index]) for index in range(self.views))

    def targets(self, views: Tensor) -> dict[str, Tensor]:
        """What a teacher makes of a micro-batch, by name, (b, C) each; called once per step, no gradient."""
        return {}

    def loss(self, features: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features (B, C) and targets of all images of this process -> 'ssl_loss', and what is logged."""
        raise NotImplementedError

    def set_steps(self, steps: int) -> None:
        """The length of the training, for schedules."""

    def after_step(self, tower: Tower) -> None:
        """Called after each step of the optimizer."""


def check_positive(**values: Any) -> None:
    """Check widths, counts and temperatures.

    Raises:
        InputError: one that is not a number above 0.
    """
    for name, value in values.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not value > 0
            or value == float('inf')
        ):
            raise InputError(f'{name} must be a number above 0, got {value!r}')
