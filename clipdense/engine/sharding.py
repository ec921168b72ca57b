"""Fully sharded training (FSDP2): each process keeps a part of every parameter, gradient and optimizer state.

Blocks of towers are gathered when they compute and dropped afterwards.  Scalars such as logit_scale, which
cannot be sharded, are whole in every process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from math import inf
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipdense.layers.precision import warn_if_emulated
from clipdense.utils.dist import world_size
from clipdense.utils.errors import InputError

_LISTS = ('blocks', 'resblocks', 'layers', 'layer', 'stages')  # names of the blocks of a tower
_DTYPES = {'bf16': torch.bfloat16, 'fp32': torch.float32}


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of all towers; of nested ones the outer."""
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        for name, child in module.named_children():
            if name in _LISTS and isinstance(child, nn.ModuleList | nn.Sequential) and len(child) > 1:
                found.extend(block for block in child if any(True for _ in block.parameters()))
            else:
                visit(child)

    visit(model)
    return found


def recompute_activations(model: nn.Module) -> None:
    """Do not keep the activations of blocks, but compute them again in the backward pass."""
    for block in blocks_of(model):
        forward = block.forward
        block.forward = partial(_recomputed, forward)


def _recomputed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def shard(model: nn.Module, passes: nn.Module, settings: Any) -> None:
    """Shard ``passes``, which contains the model, in place.

    Args:
        model: with equal weights in all processes.
        passes: a module whose forward pass runs functions of the model.
        settings: see ``Parallel``.

    Raises:
        InputError: this version of torch has no FSDP2, or offloading without a GPU.
    """
    try:
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
    except ImportError:
        raise InputError(
            f"parallel.type='fsdp' needs torch 2.6 or newer, this is {torch.__version__}"
        ) from None
    device = next(model.parameters()).device.type if not torch.cuda.is_available() else 'cuda'
    if settings.cpu_offload and device != 'cuda':
        raise InputError('parallel.cpu_offload moves weights from a GPU, and there is none: remove it')
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # channels_last is refused
    dtype = _DTYPES[settings.param_dtype] if settings.param_dtype else None
    warn_if_emulated(dtype, device, 'parallel.param_dtype')
    options: dict[str, Any] = {
        'mesh': dist.device_mesh.init_device_mesh(device, (world_size(),)),
        'mp_policy': MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32 if dtype else None),
        'offload_policy': CPUOffloadPolicy() if settings.cpu_offload else OffloadPolicy(),
    }
    for block in blocks_of(model):
        fully_shard(block, **options)
    scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}
    fully_shard(passes, **options, ignored_params=scalars)
    for tensor in (*scalars, *model.buffers()):
        tensor.data = tensor.data.to(device)
    model.register_load_state_dict_pre_hook(_accept_whole_weights)
    with torch.no_grad():
        passes(lambda: None)  # torch takes the first module that is called for the outermost one
    passes.reshard()  # type: ignore[operator]


def is_sharded(tensor: Any) -> bool:
    """Whether this is a part of a tensor that several processes share."""
    return isinstance(tensor, Tensor) and hasattr(tensor, 'full_tensor')


def whole(value: Any, keep: bool = True) -> Any:
    """Nested containers with sharded tensors gathered, on the CPU; called by all processes.

    Args:
        keep: False gives None for tensors, in processes that only help to gather.
    """
    if is_sharded(value):
        gathered = value.full_tensor()
        return gathered.cpu() if keep else None
    if isinstance(value, Mapping):
        return {key: whole(item, keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item, keep) for item in value)
    return value


def like(tensor: Tensor, sharded: Any) -> Tensor:
    """A whole tensor, sharded as another one."""
    from torch.distributed.tensor import distribute_tensor

    place = sharded.device_mesh.device_type if sharded.device.type != 'cpu' else 'cpu'
    return distribute_tensor(
        tensor.to(device=place, dtype=sharded.dtype), sharded.device_mesh, sharded.placements
    )


@contextlib.contextmanager
def gathered(passes: nn.Module) -> Iterator[None]:
    """Every process has the whole weights within this context, for evaluation."""
    from torch.distributed.fsdp import FSDPModule

    parts: list[Any] = [module for module in passes.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not passes, recurse=False)


def average_scalars(parameters: Iterable[nn.Parameter]) -> None:
    """The mean over processes of the gradients of parameters that are not sharded, in one exchange."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    together = torch.stack([gradient.float() for gradient in gradients])
    dist.all_reduce(together)
    for gradient, mean in zip(gradients, together / world_size(), strict=True):
        gradient.copy_(mean)


def gradient_norm(gradients: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """The norm over all gradients, of which some are sharded; the same in all processes."""
    parts: dict[bool, list[Tensor]] = {True: [], False: []}
    for gradient in gradients:
        local = gradient.to_local() if is_sharded(gradient) else gradient  # type: ignore[attr-defined]
        if local.numel():
            parts[is_sharded(gradient)].append(torch.linalg.vector_norm(local, norm_type))
    device = next((norms[0].device for norms in parts.values() if norms), torch.device('cpu'))
    total = torch.zeros((), device=device, dtype=torch.float64)
    for shared in (True, False):
        norms = torch.stack(parts[shared]).double() if parts[shared] else total.new_zeros(1)
        power = norms.max() if norm_type == inf else norms.pow(norm_type).sum()
        if shared:
            dist.all_reduce(power, op=dist.ReduceOp.MAX if norm_type == inf else dist.ReduceOp.SUM)
        total = torch.maximum(total, power) if norm_type == inf else total + power
    return total if norm_type == inf else total.pow(1 / norm_type)


def clip_gradients(
    parameters: Iterable[nn.Parameter],
    max_norm: float | None = None,
    norm_type: float = 2.0,
    clip_value: float | None = None,
    **_: Any,
) -> Tensor | None:
    """torch's ``clip_grad_norm_`` or ``clip_grad_value_`` for sharded parameters; returns the norm."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    local = [g.to_local() if is_sharded(g) else g for g in gradients]  # type: ignore[attr-defined]
    if clip_value is not None:
        for gradient in local:
            gradient.clamp_(-clip_value, clip_value)
        return None
    assert max_norm is not None
    norm = gradient_norm(gradients, float(norm_type))
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in local:
        gradient.mul_(factor.to(gradient.dtype))
    return norm


@contextlib.contextmanager
def parameters_apart(optimizer: torch.optim.Optimizer, sharded: bool) -> Iterator[None]:
    """Only parameters that are sharded, or only others: torch's kernels for lists do not take both."""
    groups = optimizer.param_groups
    chosen = [(group, [p for p in group['params'] if is_sharded(p) == sharded]) for group in groups]
    before = [group['params'] for group in groups]
    for group, some in chosen:
        group['params'] = some
    optimizer.param_groups = [group for group, some in chosen if some]
    try:
        yield
    finally:
        optimizer.param_groups = groups
        for group, all_of_them in zip(groups, before, strict=True):
            group['params'] = all_of_them


def _accept_whole_weights(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Shard the whole weights that are loaded into a sharded model."""
    own = dict(model.named_parameters())
    for name, tensor in list(state.items()):
        place = own.get(name.removeprefix(prefix))
        if place is not None and is_sharded(place) and not is_sharded(tensor):
            state[name] = like(tensor, place)
