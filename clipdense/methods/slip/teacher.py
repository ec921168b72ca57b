"""Partners with a teacher: a copy of the tower and of its head that follows them slowly.

B: images, V: views, C: width.
"""

from __future__ import annotations

import copy
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.clip.dense import Tower
from clipdense.clip.vit import VisionTransformer
from clipdense.utils.errors import InputError

from .partner import Partner


class TeacherPartner(Partner):
    """Base of partners whose targets come from an exponential moving average (EMA) of the student.

    The teacher is part of the state dict, with the number of steps so far: a resumed run continues exactly.
    After step t of T, ``teacher = m * teacher + (1 - m) * student``, where m grows from ``momentum`` to
    ``final_momentum`` along half a cosine; for a final one of 1, it is
    ``m = 1 - (1 - momentum) * (1 + cos(pi t / T)) / 2``.  Buffers of the teacher (batch norm statistics) are
    its own: it stays in training mode.

    Args:
        tower: the student's tower, which is copied.
        head: the part of the student's head that the teacher has, which is copied.
        momentum: m of the first step.
        final_momentum: m at the end of the training.

    Raises:
        InputError: a momentum outside 0 to 1, or larger than the final one.
    """

    done: Tensor

    def __init__(self, tower: Tower, head: nn.Module, momentum: float, final_momentum: float = 1.0) -> None:
        super().__init__()
        for name, value in (('momentum', momentum), ('final_momentum', final_momentum)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(f'{name} of the teacher must be between 0 and 1, got {value!r}')
        if momentum > final_momentum:
            raise InputError(f'momentum={momentum} is larger than final_momentum={final_momentum}')
        self.momentum, self.final_momentum = momentum, final_momentum
        self.head = head
        copied: Any = copy.deepcopy(tower)
        if isinstance(copied, VisionTransformer):
            copied.patch_dropout = 0.0
            copied.set_drop_path(0.0)
        self.teacher = nn.ModuleDict({'tower': copied, 'head': copy.deepcopy(head)})
        self.teacher.requires_grad_(False)
        self.register_buffer('done', torch.zeros((), dtype=torch.int64))
        self._steps = 0

    def set_steps(self, steps: int) -> None:
        """T of the schedule."""
        self._steps = steps

    @property
    def progress(self) -> float:
        """Fraction of the training that is done; 0 if its length is unknown."""
        return min(int(self.done) / self._steps, 1.0) if self._steps else 0.0

    def targets(self, views: Tensor) -> dict[str, Tensor]:
        """Pooled features (b, C) of each view by the teacher's tower."""
        tower: Any = self.teacher['tower']
        return {f'view{index}': tower.pooled(views[:, index]) for index in range(self.views)}

    @torch.no_grad()
    def after_step(self, tower: Tower) -> None:
        """Move the teacher towards the student."""
        rise = (1 - cos(pi * self.progress)) / 2
        momentum = self.momentum + (self.final_momentum - self.momentum) * rise
        for part, student in (('tower', tower), ('head', self.head)):
            ours = [p.data for p in self.teacher[part].parameters()]
            theirs = [p.data for p in student.parameters()]
            torch._foreach_lerp_(ours, theirs, 1 - momentum)
        self.done += 1
