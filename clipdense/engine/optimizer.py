"""The optimizer of a model, learning rate schedules, and precision of training steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from math import cos, isfinite, pi
from typing import Any, get_args

import torch
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS
from torch import Tensor, nn

from clipdense.layers.parameter_groups import parameter_groups
from clipdense.layers.precision import TrainingPrecision, autocast, resolve_precision, warn_if_emulated
from clipdense.utils.errors import CheckpointError, InputError

from .parallel import unwrapped
from .sharding import (
    average_scalars,
    clip_gradients,
    gradient_norm,
    is_sharded,
    like,
    parameters_apart,
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DecayGroupsConstructor:
    """Builds optimizer and wrapper from a config, with ``parameter_groups`` and a fused Adam.

    Args:
        optim_wrapper_cfg: ``dict(type=PrecisionOptimWrapper, optimizer=dict(type=AdamW, lr=..., ...), ...)``.
        paramwise_cfg: ``dict(rule='open_clip 3.3.0')`` for another rule,
            ``dict(layer_decay=dict(image=0.75))`` for a learning rate that falls with the distance from the
            output, ``dict(lr_factors=dict(clip=0.1))`` for that of a part; see ``parameter_groups``.

    Raises:
        InputError: an unknown entry of ``paramwise_cfg``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.wrapper = dict(optim_wrapper_cfg)
        self.optimizer = dict(self.wrapper.pop('optimizer'))
        if not isinstance(paramwise_cfg, Mapping | None):
            raise InputError(
                'paramwise_cfg must be a dict such as {"layer_decay": {"image": 0.75}}, '
                f'got {paramwise_cfg!r}'
            )
        options = dict(paramwise_cfg or {})
        self.rule = options.pop('rule', 'open_clip')
        self.layer_decay: Mapping[str, float] = options.pop('layer_decay', None) or {}
        self.lr_factors: Mapping[str, float] = options.pop('lr_factors', None) or {}
        if options:
            raise InputError(
                f'paramwise_cfg takes rule, layer_decay and lr_factors, not {", ".join(map(repr, options))}'
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The optimizer wrapper of ``model``."""
        model = unwrapped(model)
        groups = parameter_groups(
            model,
            self.optimizer.get('weight_decay', 0.0),
            self.rule,
            self.layer_decay,
            self.optimizer.get('lr', 1e-3),  # the default of Adam
            self.lr_factors,
        )
        kind = self.optimizer['type']
        if kind in (torch.optim.Adam, torch.optim.AdamW, 'Adam', 'AdamW') and fused_works(groups):
            self.optimizer.setdefault('fused', True)
        optimizer = OPTIMIZERS.build({'params': groups, **self.optimizer})
        return OPTIM_WRAPPERS.build(
            {'type': PrecisionOptimWrapper, **self.wrapper, 'optimizer': optimizer},
        )


def fused_works(groups: list[dict[str, Any]]) -> bool:
    """Whether Adam can update all these parameters in one kernel: floats on the CPU or a CUDA device."""
    parameters = [p for group in groups for p in group['params']]
    return all(p.is_floating_point() and p.device.type in ('cpu', 'cuda') for p in parameters)


@PARAM_SCHEDULERS.register_module()
class WarmupCosine(_ParamScheduler):
    """Learning rate per step: linear up, then half a cosine down.

    With T steps, W of them warm-up, and the optimizer's ``lr`` as peak, step t (from 0) has::

        t < W:  lr * (t + 1) / W                                     open_clip, start=None
        t < W:  start + (lr - start) * t / (W - 1)                   SLIP
        else:   final + (lr - final) * (1 + cos(pi (t - W) / (T - W))) / 2

    The value depends on the step and the config only, so that a run resumed with another ``lr`` or length
    follows the new schedule from there.

    Args:
        optimizer: set by the runner.
        warmup: W; in a shorter run the rate only increases.
        steps: T; set by the runner by default.
        start: of the warm-up.
        final: reached one step after the last.

    Raises:
        InputError: a negative warm-up.

    Source: open_clip ``scheduler.cosine_lr``; SLIP ``utils.cosine_scheduler``.
    """

    per_step = True

    def __init__(
        self, optimizer: Any, warmup: int, steps: int, start: float | None = None, final: float = 0.0
    ) -> None:
        if warmup < 0:
            raise InputError(f'warmup must be a number of steps >= 0, got {warmup}')
        self.warmup, self.steps, self.start, self.final = warmup, steps, start, final
        super().__init__(optimizer, param_name='lr', by_epoch=False)

    def _get_value(self) -> list[float]:
        return [self.value(base) for base in self.base_values]

    def value(self, peak: float) -> float:
        """The learning rate of step ``last_step`` for a group whose highest one is ``peak``."""
        step = min(self.last_step, self.steps)
        if step >= self.warmup:
            along = (step - self.warmup) / max(self.steps - self.warmup, 1)
            return self.final + (peak - self.final) * (1 + cos(pi * along)) / 2
        if self.start is None:
            return peak * (step + 1) / self.warmup
        return self.start + (peak - self.start) * step / max(self.warmup - 1, 1)

    def state_dict(self) -> dict[str, int]:
        """The number of steps; everything else is in the config."""
        return {'last_step': self.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after that many steps, with the schedule of the present config."""
        self.last_step = self._global_step = state_dict['last_step']
        for group, value in zip(self.optimizer.param_groups, self._get_value(), strict=True):
            group['lr'] = value


@PARAM_SCHEDULERS.register_module()
class EpochCosine(_ParamScheduler):
    """Learning rate per epoch: constant in the first epochs, then half a cosine down.

    With T epochs, W of them warm-up, and the optimizer's ``lr`` as peak, epoch e (from 0) has::

        e < W:  start
        else:   lr * (1 + cos(pi e / T)) / 2

    Args:
        optimizer, epoch_length: set by the runner.
        warmup: W.
        start: learning rate of the warm-up.
        end: T; set by the runner by default.

    Raises:
        InputError: a negative warm-up or start.

    Source: Dassl ``ConstantWarmupScheduler`` around a cosine, the schedule of CoOp, CoCoOp and MaPLe.
    """

    def __init__(
        self,
        optimizer: Any,
        warmup: int = 1,
        start: float = 1e-5,
        end: int = 1,
        epoch_length: int | None = None,
    ) -> None:
        if warmup < 0 or start < 0:
            raise InputError(f'warmup and start must be at least 0, got {warmup!r} and {start!r}')
        self.warmup, self.start, self.epochs = warmup, start, end
        super().__init__(optimizer, param_name='lr', by_epoch=True)

    def _get_value(self) -> list[float]:
        return [self.value(base) for base in self.base_values]

    def value(self, peak: float) -> float:
        """The learning rate of epoch ``last_step`` for a group whose highest one is ``peak``."""
        if self.last_step < self.warmup:
            return min(self.start, peak)
        return peak * (1 + cos(pi * min(self.last_step, self.epochs) / self.epochs)) / 2

    def state_dict(self) -> dict[str, int]:
        """The number of epochs; everything else is in the config."""
        return {'last_step': self.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after that many epochs, with the schedule of the present config."""
        self.last_step = self._global_step = state_dict['last_step']
        for group, value in zip(self.optimizer.param_groups, self._get_value(), strict=True):
            group['lr'] = value


@OPTIM_WRAPPERS.register_module()
class PrecisionOptimWrapper(OptimWrapper):
    """MMEngine's wrapper with autocast on any device, and a check for NaN.

    MMEngine's ``AmpOptimWrapper`` refuses to be built without a GPU, and scales losses for bf16 as well,
    which needs no scale.

    Args:
        optimizer: a torch optimizer.
        precision: 'auto', 'fp32', 'bf16' or 'fp16'; see ``resolve_precision``.
        clip_grad: ``dict(max_norm=...)`` for ``clip_grad_norm_``.
        accumulative_counts: plain accumulation, for losses that are means over images; contrastive losses
            need ``cached_step``.
        max_skips: maximum number of successive steps skipped for non-finite gradients before training
            stops; 0 stops at the first.  fp16 skips overflows by itself.

    Attributes:
        skipped: number of steps skipped since the last update.
        watched: whether ``gradient_norm`` is computed in the next step.
        gradient_norm: of the last watched step, before clipping.
    """

    watched = False
    gradient_norm: float | None = None

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        precision: TrainingPrecision = 'auto',
        clip_grad: dict | None = None,
        accumulative_counts: int = 1,
        max_skips: int = 0,
    ) -> None:
        super().__init__(optimizer, accumulative_counts=accumulative_counts, clip_grad=clip_grad)
        self.device = optimizer.param_groups[0]['params'][0].device.type
        self.dtype = resolve_precision(precision, self.device, get_args(TrainingPrecision))
        warn_if_emulated(self.dtype, self.device)
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.dtype == torch.float16)
        self.max_skips, self.skipped = max_skips, 0
        self.sharded = any(map(is_sharded, self._parameters()))
        if self.sharded and self.scaler.is_enabled():
            raise InputError("precision='fp16' is not supported with parallel.type='fsdp': use 'bf16'")
        if self.sharded and clip_grad:
            self.clip_func = clip_gradients

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast for the forward pass and the loss."""
        with super().optim_context(model), autocast(self.device, self.dtype):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Differentiate the loss, scaled for fp16."""
        self.scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        """Clip the gradients and update, unless they are not finite."""
        if self.sharded:
            average_scalars(p for p in self._parameters() if not is_sharded(p))
        if self.clip_grad_kwargs or self.max_skips:
            self.scaler.unscale_(self.optimizer)
        may_skip = self.max_skips > 0 and not self.scaler.is_enabled()
        norm = self._gradient_norm() if may_skip or self.watched else 0.0
        if may_skip and not isfinite(norm):
            self.skipped += 1
            return
        if self.watched:
            self.gradient_norm = norm / self._scale
        if self.clip_grad_kwargs:
            self._clip_grad()
        for kind in (True, False) if self.sharded else ():
            with parameters_apart(self.optimizer, kind):
                self.optimizer.step(**kwargs)
        if not self.sharded:
            self.scaler.step(self.optimizer, **kwargs)
            self.scaler.update()
        self.skipped = 0

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group['params']]

    @property
    def _scale(self) -> float:
        """What the gradients are multiplied by."""
        unscaled = self.clip_grad_kwargs or self.max_skips or not self.scaler.is_enabled()
        return 1.0 if unscaled else self.scaler.get_scale()

    def _gradient_norm(self) -> float:
        """The norm of all gradients, scaled as they are."""
        gradients = [p.grad.detach() for p in self._parameters() if p.grad is not None]
        if self.sharded:
            return float(gradient_norm(gradients))
        norms = [torch.linalg.vector_norm(gradient.float()) for gradient in gradients]
        return float(torch.stack(norms).norm()) if norms else 0.0

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer and, for fp16, of the loss scale."""
        state = super().state_dict()
        return state | {'loss_scaler': self.scaler.state_dict()} if self.scaler.is_enabled() else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a ``state_dict``.

        Raises:
            CheckpointError: the state belongs to other parameters.
        """
        state = dict(state_dict)
        scale = state.pop('loss_scaler', None)
        if scale and self.scaler.is_enabled():
            self.scaler.load_state_dict(scale)
        ours = [len(group['params']) for group in self.optimizer.param_groups]
        theirs = [len(group['params']) for group in state['param_groups']]
        if ours != theirs:
            raise CheckpointError(
                f'the checkpoint has optimizer groups of {theirs} parameters, this run of {ours}; '
                'resume with the same weight-decay rule and frozen parts, or use load_from'
            )
        if self.sharded:
            state['state'] = self._sharded_as_parameters(state['state'])
        super().load_state_dict(state)

    def _sharded_as_parameters(self, states: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """The state of each parameter, whole in a file, sharded as the parameter is."""
        parameters = self._parameters()

        def fitted(x: Any, parameter: nn.Parameter) -> Any:
            same = isinstance(x, Tensor) and x.shape == parameter.shape and not is_sharded(x)
            return like(x, parameter) if same and is_sharded(parameter) else x

        return {
            index: {key: fitted(x, parameters[index]) for key, x in state.items()}
            for index, state in states.items()
        }
