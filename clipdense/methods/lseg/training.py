"""The optimizer of LSeg, with two learning rates."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS

from clipdense.engine.optimizer import PrecisionOptimWrapper
from clipdense.engine.parallel import unwrapped
from clipdense.layers.parameter_groups import parameter_groups
from clipdense.utils.errors import InputError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ScratchFaster:
    """Builds an optimizer wrapper with a higher learning rate for all parameters outside the backbone.

    Args:
        optim_wrapper_cfg: ``dict(optimizer=dict(type=SGD, lr=...), ...)``; ``lr`` is that of the backbone.
        paramwise_cfg: ``scratch_lr``: factor on the learning rate outside the backbone, 10 as released;
            ``decay_all=True``: weight decay for gains and biases too, as released, instead of the rule of
            ``layers.parameter_groups``.

    Raises:
        InputError: unknown keys of ``paramwise_cfg``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.wrapper = dict(optim_wrapper_cfg)
        self.optimizer = dict(self.wrapper.pop('optimizer'))
        options = dict(paramwise_cfg or {})
        self.factor = options.pop('scratch_lr', 10.0)
        self.decay_all = options.pop('decay_all', False)
        if options:
            raise InputError(
                f'unknown keys {sorted(options)} in paramwise_cfg: use scratch_lr and decay_all only'
            )

    def __call__(self, model: torch.nn.Module) -> OptimWrapper:
        """The optimizer wrapper of an ``LSeg``."""
        bare: Any = unwrapped(model)
        backbone = {id(parameter) for parameter in bare.backbone.parameters()}
        lr, decay = self.optimizer['lr'], self.optimizer.get('weight_decay', 0.0)
        groups = []
        for group in parameter_groups(bare, decay):
            if self.decay_all:
                group['weight_decay'] = decay
            for scratch in (False, True):
                chosen = [p for p in group['params'] if (id(p) not in backbone) == scratch]
                if chosen:
                    groups.append({**group, 'params': chosen, 'lr': lr * (self.factor if scratch else 1)})
        optimizer = OPTIMIZERS.build({'params': groups, **self.optimizer})
        return OPTIM_WRAPPERS.build({'type': PrecisionOptimWrapper, **self.wrapper, 'optimizer': optimizer})
