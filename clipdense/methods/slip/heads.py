"""Projection and prediction heads.  N: rows, C: width, E: output."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from clipdense.layers.batch_norm import SyncedBatchNorm


def mlp_head(
    width: int, hidden: int, output: int, layers: int, last_norm: bool = False, bias: bool = True
) -> nn.Sequential:
    """(N, C) -> (N, E): linear layers with batch norm over all processes and ReLU between them.

    Args:
        width: C.
        hidden: width of the hidden layers.
        output: E.
        layers: number of linear layers.
        last_norm: a batch norm without scale and shift at the end (MoCo v3).
        bias: of the linear layers.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(1, layers + 1):
        last = index == layers
        parts[f'layer{index}'] = nn.Linear(hidden if index > 1 else width, output if last else hidden, bias)
        if not last:
            parts[f'bn{index}'] = SyncedBatchNorm(hidden)
            parts[f'relu{index}'] = nn.ReLU()
        elif last_norm:
            parts[f'bn{index}'] = SyncedBatchNorm(output, affine=False)
    return nn.Sequential(parts)
