"""The optimizer of LSeg: two learning rates."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS

from clipdense.engine.optimizer import PrecisionOptimWrapper, parameter_groups
from clipdense.engine.train_step import unwrapped
from clipdense.utils.errors import InputError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ScratchFaster:
    """Optimizer and wrapper in which everything but the backbone learns faster.

    Args:
        optim_wrapper_cfg: ``dict(optimizer=dict(type=SGD, lr=...), ...)``; ``lr`` is the backbone's.
        paramwise_cfg: ``scratch_lr``, a factor, 10 in the release; ``decay_all=True`` decays gains and biases
            too, as the release does, instead of by ``engine.optimizer.parameter_groups``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.wrapper = dict(optim_wrapper_cfg)
        self.optimizer = dict(self.wrapper.pop('optimizer'))
        options = dict(paramwise_cfg or {})
        self.factor = options.pop('scratch_lr', 10.0)
        self.decay_all = options.pop('decay_all', False)
        if options:
            raise InputError(f'paramwise_cfg has scratch_lr and decay_all, not {sorted(options)}')

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
