"""Moving average of the weights (EMA), for evaluation and export."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from clipdense.registry import HOOKS
from clipdense.utils.errors import CheckpointError, InputError, nearest

from .parallel import unwrapped
from .sharding import is_sharded, like

_SETTINGS = ('decay', 'warmup')


def read_ema(section: Any) -> dict[str, Any] | None:
    """The section ``ema`` of a config: arguments of ``EMAHook``, or None.

    Raises:
        InputError: an unknown name, or a wrong value.
    """
    if section is None:
        return None
    if not isinstance(section, Mapping):
        raise InputError(f'ema must be a part such as ema=dict(decay=0.9998), got {section!r}')
    for name in section:
        if name not in _SETTINGS:
            raise InputError(f'ema.{name}: unknown entry; use decay and warmup.{nearest(name, _SETTINGS)}')
    EMAHook(**section)
    return dict(section)


@HOOKS.register_module()
class EMAHook(Hook):
    """Keeps a moving average of the weights, which is what is evaluated, kept as best, and exported.

    After step n (from 1) of the optimizer, ``average += (1 - d) * (weights - average)``, with
    ``d = min(decay, n / (n + 9))``, so that a short run is not dominated by its first weights.  Averaged are
    trained parameters and buffers of floating-point numbers, such as statistics of batch norm.  Training
    continues from the weights themselves, which are in ``step_*.pth`` with the average beside them.

    Args:
        decay: d; 0.9998 averages over about 5,000 steps.
        warmup: whether d grows as above.

    Raises:
        InputError: a decay outside of 0 to 1.
    """

    priority = 'NORMAL'  # before evaluations and checkpoints

    def __init__(self, decay: float = 0.9998, warmup: bool = True) -> None:
        if not isinstance(decay, int | float) or isinstance(decay, bool) or not 0 <= decay < 1:
            raise InputError(f'ema.decay must be a number from 0 to below 1, such as 0.9998, got {decay!r}')
        if not isinstance(warmup, bool):
            raise InputError(f'ema.warmup must be true or false, got {warmup!r}')
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self.average: dict[str, Tensor] = {}

    def before_train(self, runner: Any) -> None:
        """Start from the weights, unless the run was resumed."""
        if not self.average:
            self.average = {name: x.detach().clone() for name, x in learned(unwrapped(runner.model)).items()}

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Follow the weights after a step of the optimizer."""
        wrapper = runner.optim_wrapper
        if getattr(wrapper, 'skipped', 0) or not wrapper.should_update():
            return
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9)) if self.warmup else self.decay
        now = learned(unwrapped(runner.model))
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(now[name].detach().to(average.dtype), 1 - decay)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Store the average beside the weights."""
        if self.average and 'optimizer' in checkpoint:
            checkpoint['ema'] = {'updates': self.updates, 'weights': dict(self.average)}

    def after_resume(self, runner: Any, checkpoint: dict) -> None:
        """Continue from the stored average."""
        stored = checkpoint.get('ema')
        if stored is None:
            runner.logger.warning('the checkpoint has no moving average of the weights; it starts from them')
            return
        now = {name: x.detach().clone() for name, x in learned(unwrapped(runner.model)).items()}
        if now.keys() != stored['weights'].keys():
            raise CheckpointError(
                'the moving average in the checkpoint is of other parameters; resume with the same frozen '
                'parts, or without it: -o ema=None'
            )
        self.updates, self.average = stored['updates'], now
        with torch.no_grad():
            for name, average in now.items():
                kept = stored['weights'][name]
                average.copy_(like(kept, average) if is_sharded(average) and not is_sharded(kept) else kept)

    @contextlib.contextmanager
    def averaged(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights within this context."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        now = learned(model)
        for name, average in self.average.items():
            kept = now[name].detach().clone()
            now[name].copy_(average)
            average.copy_(kept)


def averaged(runner: Any) -> contextlib.AbstractContextManager:
    """Within this context the model has the averaged weights, if the run has an ``EMAHook``."""
    hook = next((hook for hook in runner.hooks if isinstance(hook, EMAHook)), None)
    return contextlib.nullcontext() if hook is None else hook.averaged(unwrapped(runner.model))


def learned(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters and floating-point buffers of the state dict, by name."""
    kept = model.state_dict().keys()
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    buffers = {n: b for n, b in model.named_buffers() if n in kept and b.is_floating_point()}
    return {**found, **buffers}
