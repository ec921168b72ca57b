"""Semantic FPN.  B: images, C: channels, W: width, K: classes, (h, w): cells.

Source: Lin et al., arXiv 1612.03144; Kirillov et al., arXiv 1901.02446; mmsegmentation ``FPN``, ``FPNHead``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class FPN(nn.Module):
    """A feature pyramid: coarser maps are added to finer ones.

    Args:
        in_channels: of the maps, finest first.
        width: W, channels of all results.
    """

    def __init__(self, in_channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.lateral: Any = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        self.output: Any = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in in_channels)
        for conv in (*self.lateral, *self.output):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C_i, h_i, w_i), finest first -> (B, W, h_i, w_i)."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            finer = merged[level - 1]
            merged[level - 1] = finer + F.interpolate(merged[level], finer.shape[-2:], mode='nearest')
        return [output(x) for output, x in zip(self.output, merged, strict=True)]


class FuseLevels(nn.Module):
    """The sum of all levels at the size of the finest: coarser ones are convolved and doubled in turn.

    Args:
        width: W.
        levels: number of levels.
    """

    def __init__(self, width: int = 256, levels: int = 4) -> None:
        super().__init__()
        self.scale: Any = nn.ModuleList(
            nn.ModuleList(_conv(width) for _ in range(max(1, level))) for level in range(levels)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, W, h_i, w_i), each half as wide as the one before -> (B, W, h_0, w_0)."""
        total = self.scale[0][0](maps[0])
        for convs, x in zip(self.scale[1:], maps[1:], strict=True):
            for conv in convs:
                x = conv(x)
                x = resized(x, (2 * x.shape[-2], 2 * x.shape[-1]))
            total = total + resized(x, total.shape[-2:])
        return total


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear; corners are not aligned."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode='bilinear', align_corners=False)


def _conv(width: int) -> nn.Sequential:
    conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())
