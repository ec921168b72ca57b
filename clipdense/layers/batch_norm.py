"""Batch norm over the rows of all processes, on any device.  N: rows, C: channels, P: processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipdense.utils.dist import gather_with_grad, world_size

from .precision import at_least_fp32


class SyncedBatchNorm(nn.BatchNorm1d):
    """Normalises (..., C) by the mean and variance of each channel over every row of every process.

    torch's ``SyncBatchNorm`` refuses CPU tensors.  This one works wherever tensors can be gathered, and P
    processes get the result, the gradients and the running statistics of one process with all the rows; they
    may bring different numbers of them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> the same shape.

        Raises:
            ValueError: a single row in training, over all processes.
        """
        rows = x.flatten(0, -2)  # (N, C)
        if not self.training or world_size() == 1:
            return super().forward(rows).view_as(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._synced(at_least_fp32(rows)).to(x.dtype).view_as(x)

    def _synced(self, rows: Tensor) -> Tensor:
        count = rows.new_full((1,), len(rows))
        total = gather_with_grad(torch.cat([rows.sum(0), count])[None]).sum(0)  # (C + 1)
        mean, number = total[:-1] / total[-1], total[-1].detach()
        if number <= 1:
            raise ValueError('batch norm needs more than one row in training')
        squares = gather_with_grad((rows - mean).square().sum(0)[None]).sum(0)  # (C,)
        variance = squares / number
        self._remember(mean.detach(), (squares / (number - 1)).detach())
        return (rows - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)
