"""Data-parallel training on torch's engine: which part of a training step torch wraps, and its settings.

P: processes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from mmengine.registry import MODEL_WRAPPERS
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clipdense.utils.dist import world_size
from clipdense.utils.errors import InputError, nearest

from .sharding import gathered, recompute_activations, shard

Output = TypeVar('Output')
_ENGINE = '_parallel_engine'  # attribute of a model within a training step
_TYPES = {'ddp': ('static_graph', 'bucket_mb'), 'fsdp': ('param_dtype', 'cpu_offload')}  # settings of one
_NEEDLESS = 'find_unused_parameters=True was specified'  # torch's remark on a model that uses all of them


@dataclass(frozen=True)
class Parallel:
    """The section ``parallel`` of a config.

    Args:
        type: 'ddp', ``DistributedDataParallel``: every process has the whole model.
        static_graph: every step is one backward pass that uses the same parameters in the same way, which
            torch may rely on; not with ``micro_batch``.  A resumed run of more than two processes then
            differs in the last bits, as torch arranges the buckets anew after the first step.
        bucket_mb: gradients that are exchanged together, while the backward pass continues.
        global_batch: samples of a step in all processes together, in place of
            ``train_dataloader.batch_size``, which is that of one process.
        activation_checkpointing: do not keep the activations of blocks, but compute them again.
        param_dtype: 'fsdp' only, 'bf16': blocks are gathered and compute in bf16; parameters, gradients that
            are summed and the optimizer stay in fp32.
        cpu_offload: 'fsdp' only: parameters, gradients and optimizer are in the memory of the CPU.

    ``type='fsdp'`` is ``fully_shard`` of every block of the towers, for models that do not fit: each process
    keeps a part of the weights, gradients and optimizer.
    """

    type: str = 'ddp'
    static_graph: bool = False
    bucket_mb: int = 25
    global_batch: int | None = None
    activation_checkpointing: bool = False
    param_dtype: str | None = None
    cpu_offload: bool = False


def read_parallel(section: Mapping[str, Any] | None) -> Parallel:
    """The settings of a config.

    Raises:
        InputError: an unknown name, or a wrong value.
    """
    if not isinstance(section, Mapping | None):
        raise InputError(f'parallel must be a part such as parallel=dict(static_graph=True), got {section!r}')
    section = dict(section or {})
    known = [field.name for field in fields(Parallel)]
    for name in section:
        if name not in known:
            raise InputError(
                f'parallel.{name}: unknown entry; there is {", ".join(known)}.{nearest(name, known)}'
            )
    settings = Parallel(**section)
    if settings.type not in _TYPES:
        raise InputError(f"parallel.type must be 'ddp' or 'fsdp', got {settings.type!r}")
    for name in ('static_graph', 'activation_checkpointing', 'cpu_offload'):
        if not isinstance(getattr(settings, name), bool):
            raise InputError(f'parallel.{name} must be true or false, got {getattr(settings, name)!r}')
    size = settings.bucket_mb
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InputError(f'parallel.bucket_mb must be a whole number and at least 1, got {size!r}')
    if settings.param_dtype not in (None, 'bf16', 'fp32'):
        raise InputError(f"parallel.param_dtype must be 'bf16' or 'fp32', got {settings.param_dtype!r}")
    other = _TYPES['fsdp' if settings.type == 'ddp' else 'ddp']
    foreign = [name for name in section if name in other]
    if foreign:
        needed = 'fsdp' if settings.type == 'ddp' else 'ddp'
        raise InputError(f"parallel.{foreign[0]} is a setting of type='{needed}', got type={settings.type!r}")
    return settings


def run_pass(model: Any, function: Callable[..., Output], *args: Any, sync: bool = True) -> Output:
    """``function(*args)`` as a forward pass of a training step.

    A model whose ``train_step`` calls anything but the model itself (``self(...)``) uses it for each pass
    that has a backward pass, so that gradients are averaged over the processes.

    Args:
        model: the model in training; None in a single process.
        function: of the model, which returns tensors, or tuples or dicts of them.
        sync: gradients are averaged in the backward pass of this pass; True for the last one of a step.
    """
    engine = None if model is None else model.__dict__.get(_ENGINE)
    return function(*args) if engine is None else engine.run(function, *args, sync=sync)


@MODEL_WRAPPERS.register_module()
class DistributedModel(nn.Module):
    """Data-parallel wrapper of models that have their own ``train_step``.

    MMEngine's wrapper calls ``forward`` itself and silently skips ``train_step`` of the model, cached
    accumulation included.  Here the forward passes within ``train_step``, which are calls of the model or of
    ``run_pass``, go through torch's ``DistributedDataParallel``: the weights of process 0 are broadcast, and
    gradients are averaged in buckets while the backward pass continues, in the last one of a step only.

    Args:
        module: the model, on its device.
        settings: see ``Parallel``.

    Source: arXiv 2006.15704 (PyTorch Distributed).
    """

    module: Any
    _torch: Any

    def __init__(self, module: nn.Module, settings: Parallel | None = None) -> None:
        super().__init__()
        self.module = module
        settings = settings or Parallel()
        if settings.activation_checkpointing:
            recompute_activations(module)
        trained = any(parameter.requires_grad for parameter in module.parameters())
        several = world_size() > 1 and trained
        self.sharded = several and settings.type == 'fsdp'
        wrap = _sharded if self.sharded else _ddp
        engine = wrap(module, settings) if several else None
        self.__dict__['_torch'] = engine  # not a child: its parameters are those of the module
        self._passes, self._nested, self._static = 0, False, settings.static_graph

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's method."""
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Call the model's method, with its forward passes as those of torch's wrapper.

        Raises:
            TypeError: the model made no forward pass whose gradients are averaged.
        """
        if self._torch is None:
            return self.module.train_step(data, optim_wrapper)
        self._passes = 0
        with self._wrapped(optim_wrapper):
            outputs = self.module.train_step(data, optim_wrapper)
        if not self._passes:
            raise TypeError(
                f'{type(self.module).__name__}.train_step calls neither the model nor run_pass, so gradients '
                'are not averaged over processes: use engine.parallel.run_pass for its forward passes'
            )
        return outputs

    def val_step(self, data: Any) -> list:
        """Call the model's method."""
        return self._outside(self.module.val_step, data)

    def test_step(self, data: Any) -> list:
        """Call the model's method."""
        return self._outside(self.module.test_step, data)

    def gathered(self) -> contextlib.AbstractContextManager:
        """Every process has the whole weights within this context, of a sharded model too."""
        return gathered(self._torch) if self.sharded else contextlib.nullcontext()

    def run(self, function: Callable[..., Output], *args: Any, sync: bool = True) -> Output:
        """See ``run_pass``."""
        learns = torch.is_grad_enabled()
        if self._nested or self._torch is None or not (learns or self.sharded):
            return function(*args)
        quiet = not (sync or self.sharded)  # a sharded model keeps the sum of its parts only
        if quiet and self._static:
            raise InputError(
                'parallel.static_graph is for steps of one backward pass: remove it, or micro_batch and '
                'accumulative_counts'
            )
        self._nested = True
        self._passes += learns
        try:
            with self._torch.no_sync() if quiet else contextlib.nullcontext():
                return self._torch(function, *args)
        finally:
            self._nested = False

    def _outside(self, step: Callable[[Any], list], data: Any) -> list:
        """A step without gradients, after which a sharded model is sharded again."""
        found = self.run(step, data)
        if self.sharded:
            self._torch.reshard()
        return found

    @contextlib.contextmanager
    def _wrapped(self, optim_wrapper: Any) -> Iterator[None]:
        """Calls of the model go through ``run``."""
        module, forward = self.module, self.module.forward
        before = module.__dict__.get('forward')

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return self.run(lambda: forward(*args, **kwargs), sync=optim_wrapper.should_sync())

        module.__dict__ |= {'forward': wrapped, _ENGINE: self}
        try:
            yield
        finally:
            del module.__dict__['forward'], module.__dict__[_ENGINE]
            if before is not None:
                module.__dict__['forward'] = before


class Passes(nn.Module):
    """A module whose forward pass is any function of a model, for torch's wrappers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Output], *args: Any) -> Output:
        """``function(*args)``."""
        return function(*args)


def unwrapped(model: nn.Module) -> Any:
    """The model inside ``DistributedModel`` or torch's wrappers, or the model itself."""
    return model.module if hasattr(model, 'module') else model


def _ddp(module: nn.Module, settings: Parallel) -> DistributedDataParallel:
    # Losses and batch norm gather in the backward pass too.  On gloo, which knows no order, gradients
    # have a group of their own, so that the two cannot be mistaken for each other.
    group = dist.new_group(backend='gloo') if dist.get_backend() == 'gloo' else None
    warnings.filterwarnings('ignore', message=_NEEDLESS)
    warnings.filterwarnings('ignore', message='`broadcast_buffers` is deprecated')  # its successor is newer
    return DistributedDataParallel(
        Passes(module),
        process_group=group,
        broadcast_buffers=False,  # each process has the statistics of its own images, unless sync_bn
        find_unused_parameters=not settings.static_graph,
        static_graph=settings.static_graph,
        gradient_as_bucket_view=True,
        bucket_cap_mb=settings.bucket_mb,
    )


def _sharded(module: nn.Module, settings: Parallel) -> Passes:
    with torch.no_grad():
        device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        for tensor in module.state_dict().values():  # one after another on a GPU, which NCCL needs
            sent = tensor.to(device)
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)
    passes = Passes(module)
    shard(module, passes, settings)
    return passes
