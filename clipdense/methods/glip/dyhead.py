"""A block of DyHead: each level looks at its neighbors, with attention over scales, places and channels.

Dai et al., CVPR 2021 (arXiv 2106.08322).  B: images, C: channels, (h, w): a level.

Source: microsoft/GLIP modeling/rpn/vldyhead.py ``DyConv``, ``DYReLU``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.deformable import deformable_conv

_OFFSETS = 18  # of nine taps: y and x


def init_normal(layer: nn.Conv2d) -> None:
    """Weights from N(0, 0.01 ** 2), no bias."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class DeformableConv(nn.Module):
    """A modulated deformable 3 x 3 convolution, and group normalization.

    Offsets may be of a larger level than the output: as in the kernel that the published weights were trained
    with, their first numbers are read as if they were of the output's size.
    """

    def __init__(self, channels: int, groups: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.norm = nn.GroupNorm(groups, channels)
        nn.init.uniform_(self.weight, -((9 * channels) ** -0.5), (9 * channels) ** -0.5)

    def forward(self, x: Tensor, offset: Tensor, strength: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h / stride, w / stride), rounded up."""
        size = tuple((side - 1) // self.stride + 1 for side in x.shape[-2:])
        offset, strength = (_first(one, size) for one in (offset, strength))
        return self.norm(deformable_conv(x, offset, strength, self.weight, self.bias, self.stride))


class DynamicReLU(nn.Module):
    """The maximum of two linear functions, whose factors depend on the image; a function for each channel.

    Args:
        channels: C.
        reduction: of the hidden layer.

    Source: Chen et al., arXiv 2003.10027, DY-ReLU-B.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // reduction)
        self.fc2 = nn.Linear(channels // reduction, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        shares = F.hardsigmoid(self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3))))))  # (B, 4 * C)
        slope1, shift1, slope2, shift2 = (shares[..., None, None] - 0.5).chunk(4, dim=1)
        return torch.maximum(x * (2 * slope1 + 1) + shift1, x * (2 * slope2) + shift2)


class DyConv(nn.Module):
    """A level from itself, the next finer and the next coarser one.

    Args:
        channels: C.
        groups: of the normalizations.
    """

    def __init__(self, channels: int, groups: int = 16) -> None:
        super().__init__()
        self.from_coarser = DeformableConv(channels, groups)
        self.from_same = DeformableConv(channels, groups)
        self.from_finer = DeformableConv(channels, groups, stride=2)
        self.offset = nn.Conv2d(channels, _OFFSETS + 9, 3, padding=1)
        self.scale = nn.Conv2d(channels, 1, 1)
        self.relu = DynamicReLU(channels)
        init_normal(self.scale)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """(B, C, h, w) of each level, finest first -> the same shapes."""
        return [self.relu(self._mixed(levels, place)) for place in range(len(levels))]

    def _mixed(self, levels: Sequence[Tensor], place: int) -> Tensor:
        """(B, C, h, w): the mean of the branches, each times its scale attention."""
        own = levels[place]
        taps = self.offset(own)  # (B, 27, h, w)
        at = taps[:, :_OFFSETS], taps[:, _OFFSETS:].sigmoid()
        branches = [self.from_same(own, *at)]
        if place > 0:
            branches.append(self.from_finer(levels[place - 1], *at))
        if place < len(levels) - 1:
            coarse = self.from_coarser(levels[place + 1], *at)
            branches.append(F.interpolate(coarse, own.shape[-2:], mode='bilinear', align_corners=True))
        weighted = [branch * self._attention(branch) for branch in branches]
        return torch.stack(weighted).mean(dim=0)

    def _attention(self, branch: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 1, 1, 1)."""
        return F.hardsigmoid(F.relu(self.scale(branch.mean(dim=(2, 3), keepdim=True))))


def _first(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, n, h, w) -> (B, n, *size), from the first numbers of each image."""
    if values.shape[-2:] == size:
        return values
    count = values.shape[1]
    return values.flatten(1)[:, : count * size[0] * size[1]].reshape(-1, count, *size)
