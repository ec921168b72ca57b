"""Batch norm over the rows of all processes, on any device.  N: rows, C: channels, P: processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clipdense.utils.dist import gather_with_grad, world_size

from .precision import at_least_fp32, no_autocast


class SyncedBatchNorm(nn.BatchNorm1d):
    """Normalizes (..., C) by the mean and variance of each channel over every row of every process.

    torch's ``SyncBatchNorm`` does not support CPU tensors.  This one works on any device, and P processes get
    the output, gradients and running statistics of one process with all rows.  Processes may have different
    numbers of rows.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> the same shape.

        Raises:
            ValueError: only one row over all processes in training.
        """
        if not self.training or world_size() == 1:
            return super().forward(x.flatten(0, -2)).view_as(x)
        return _over_processes(self, x)


class SyncedMapNorm(nn.modules.batchnorm._BatchNorm):
    """torch's ``SyncBatchNorm`` of (B, C, ...) for devices that it does not support, such as a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape.

        Raises:
            ValueError: only one row over all processes in training.
        """
        if not self.training or world_size() == 1:
            return super().forward(x)
        return _over_processes(self, x.movedim(1, -1)).movedim(-1, 1)

    def _check_input_dim(self, x: Tensor) -> None:
        """Maps of any number of dimensions."""


def synchronize(model: nn.Module, every: bool = False) -> None:
    """Synchronize batch norm over all processes; weights, statistics and names are unchanged.

    Args:
        model: changed in place, before an optimizer or a wrapper is created.
        every: all ``BatchNorm1d`` and ``BatchNorm2d``; otherwise only torch's ``SyncBatchNorm``.  Other
            subclasses, such as timm's with an activation, are left unchanged.

    The layers are torch's on a GPU, and ``SyncedMapNorm`` elsewhere.
    """
    kinds = (nn.SyncBatchNorm, *((nn.BatchNorm1d, nn.BatchNorm2d) if every else ()))
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) in kinds:
                setattr(parent, name, _synced(child))


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norm unchanged by forward passes in this context."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    before = [
        (norm, norm.momentum, norm.num_batches_tracked, norm.num_batches_tracked.clone())
        for norm in norms
        if norm.num_batches_tracked is not None
    ]
    for norm, *_ in before:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count, kept in before:
            norm.momentum = momentum
            count.copy_(kept)


def _synced(norm: nn.Module) -> nn.Module:
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    tensors = [*norm.parameters(), *norm.buffers()]
    kind = nn.SyncBatchNorm if any(tensor.is_cuda for tensor in tensors) else SyncedMapNorm
    synced = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name, part in (*norm._parameters.items(), *norm._buffers.items()):
        setattr(synced, name, part)
    return synced.train(norm.training)


def _over_processes(norm: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """Normalize (..., C) by the mean and variance over the rows of all processes."""
    with no_autocast(x.device):
        rows = at_least_fp32(x.flatten(0, -2))  # (N, C)
        count = rows.new_full((1,), len(rows))
        total = gather_with_grad(torch.cat([rows.sum(0), count])[None]).sum(0)  # (C + 1)
        mean, number = total[:-1] / total[-1], total[-1].detach()
        if number <= 1:
            raise ValueError('batch norm needs more than one row in training')
        squares = gather_with_grad((rows - mean).square().sum(0)[None]).sum(0)  # (C,)
        _remember(norm, mean.detach(), (squares / (number - 1)).detach())
        normal = (rows - mean) * (squares / number + norm.eps).rsqrt()
        if norm.affine:
            normal = normal * norm.weight + norm.bias
        return normal.to(x.dtype).view_as(x)


def _remember(norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor) -> None:
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked += 1
    share = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance, share)
