"""The decoder of dense prediction transformers.  B: images, N: patches, (h, w): grid, C: channels.

Source: DPT (arXiv 2103.13413), section 3.1; isl-org/lang-seg ``modules/models/lseg_blocks.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.registry import MODELS

ReadoutMode = Literal['project', 'add', 'ignore']


class Readout(nn.Module):
    """Use of the class token: projected together with each patch, added to each patch, or ignored.

    Args:
        width: C.
        mode: 'project', 'add' or 'ignore'.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, width: int, mode: ReadoutMode = 'project') -> None:
        super().__init__()
        if mode not in ('project', 'add', 'ignore'):
            raise ValueError(f"readout must be 'project', 'add' or 'ignore', got {mode!r}")
        self.mode = mode
        self.project = nn.Linear(2 * width, width) if mode == 'project' else None

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, C), the class token first -> (B, N, C)."""
        patches, token = tokens[:, 1:], tokens[:, :1]
        if self.project is None:
            return patches + token if self.mode == 'add' else patches
        width = patches.shape[-1]
        weight, bias = self.project.weight, self.project.bias  # of [patch, class token]
        both = F.linear(patches, weight[:, :width]) + F.linear(token, weight[:, width:], bias)
        return F.gelu(both)


class Reassemble(nn.Module):
    """Tokens of one block -> a map of another resolution.

    Args:
        width: channels of the tokens.
        channels: of the map.
        scale: resolution of the map relative to the patch grid: 8, 4, 2, 1, 0.5 or 0.25.
        readout: see ``Readout``; None if there is no class token.
    """

    def __init__(
        self, width: int, channels: int, scale: float, readout: ReadoutMode | None = 'project'
    ) -> None:
        super().__init__()
        self.readout = None if readout is None else Readout(width, readout)
        self.project = nn.Conv2d(width, channels, 1)
        self.resample = _resample(channels, scale)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, 1 + N, C), or (B, N, C) without a class token -> (B, channels, scale * h, scale * w)."""
        patches = tokens if self.readout is None else self.readout(tokens)  # (B, N, C)
        return self.resample(self.project(patches.mT.unflatten(2, grid)))


class ResidualUnit(nn.Module):
    """A residual block of two convolutions.

    Args:
        width: C.
        batch_norm: whether each convolution is followed by batch norm and has no bias.
    """

    def __init__(self, width: int, batch_norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=not batch_norm)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=not batch_norm)
        self.bn1 = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.bn2 = nn.BatchNorm2d(width) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(F.relu(x)))
        return x + self.bn2(self.conv2(F.relu(y)))


class Fusion(nn.Module):
    """Adds the map of a finer stage to the output of the coarser ones, and doubles the resolution.

    Args:
        width: C.
        batch_norm: see ``ResidualUnit``.
        skip: whether there is a finer map; the first fusion has a single input.
    """

    def __init__(self, width: int, batch_norm: bool = True, skip: bool = True) -> None:
        super().__init__()
        self.skip_unit = ResidualUnit(width, batch_norm) if skip else None
        self.unit = ResidualUnit(width, batch_norm)
        self.out_conv = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, C, h, w), and a map of the same size or none -> (B, C, 2 h, 2 w)."""
        if self.skip_unit is not None and skip is not None:
            x = x + self.skip_unit(skip)
        # A 1 x 1 convolution and an interpolation commute; before it, there are a quarter of the pixels.
        return double(self.out_conv(self.unit(x)))


@MODELS.register_module()
class DPT(nn.Module):
    """Four maps of decreasing resolution -> one map with twice the resolution of the first.

    Args:
        in_channels: channels of the four maps, finest first.
        width: C of the decoder.
        batch_norm: whether the residual units have batch norm.

    Raises:
        ValueError: not four maps.
    """

    def __init__(self, in_channels: Sequence[int], width: int = 256, batch_norm: bool = True) -> None:
        super().__init__()
        if len(in_channels) != 4:
            raise ValueError(f'in_channels must have four values, got {list(in_channels)}')
        self.width = width
        self.reduce: Any = nn.ModuleList(
            nn.Conv2d(channels, width, 3, padding=1, bias=False) for channels in in_channels
        )
        self.fuse: Any = nn.ModuleList(Fusion(width, batch_norm, skip=stage < 3) for stage in range(4))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, h_i, w_i), finest first -> (B, C, 2 h_1, 2 w_1)."""
        first, second, third, fourth = (
            reduce(stage) for reduce, stage in zip(self.reduce, maps, strict=True)
        )
        x = self.fuse[3](fourth)
        x = self.fuse[2](x, third)
        x = self.fuse[1](x, second)
        return self.fuse[0](x, first)


def double(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 2 h, 2 w), corners aligned."""
    size = (2 * x.shape[-2], 2 * x.shape[-1])
    return F.interpolate(x, size, mode='bilinear', align_corners=True)


def _resample(channels: int, scale: float) -> nn.Module:
    if scale == 1:
        return nn.Identity()
    if scale in (0.5, 0.25):
        return nn.Conv2d(channels, channels, 3, stride=round(1 / scale), padding=1)
    if scale in (2, 4, 8):
        return nn.ConvTranspose2d(channels, channels, int(scale), stride=int(scale))
    raise ValueError(f'scale must be 8, 4, 2, 1, 0.5 or 0.25, got {scale}')
