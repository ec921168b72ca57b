"""Deformable convolution: torchvision's on a GPU, and one that is faster without.

Dai et al., ICCV 2017 (arXiv 1703.06211), and Zhu et al., CVPR 2019 (arXiv 1811.11168).
B: images, C: channels, O: output channels, k: side of the kernel, (H, W): input, (h, w): output.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from .precision import at_least_fp32, no_autocast


def deformable_conv(
    x: Tensor, offset: Tensor, strength: Tensor, weight: Tensor, bias: Tensor, stride: int = 1
) -> Tensor:
    """A modulated deformable convolution, padded by k // 2.

    Without a GPU the taps are read with ``grid_sample``: 3 times as fast as torchvision's kernel, and 5 to 7
    times with the gradients (one thread, 32 channels, levels of 6 to 24 places a side).

    Args:
        x: (B, C, H, W).
        offset: (B, 2 k k, h, w), y and x of each tap.
        strength: (B, k k, h, w), a factor of each tap.
        weight: (O, C, k, k).
        bias: (O,).
        stride: between two outputs.

    Returns:
        (B, O, h, w).
    """
    pad = weight.shape[-1] // 2
    if x.device.type != 'cpu':
        return deform_conv2d(x, offset, weight, bias, stride, pad, mask=strength)
    with no_autocast(x.device):
        exact = (at_least_fp32(one) for one in (x, offset, strength, weight, bias))
        return _sampled(stride, pad, *exact).to(x.dtype)


def _sampled(
    stride: int, pad: int, x: Tensor, offset: Tensor, strength: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    images, channels, height, width = x.shape
    side, size = weight.shape[-1], offset.shape[-2:]
    taps, places = side * side, size[0] * size[1]
    rows, columns = (torch.arange(count).to(x) * stride - pad for count in size)
    across = torch.arange(side).to(x)
    moved = offset.unflatten(1, (taps, 2))  # (B, k k, 2, h, w)
    y = moved[:, :, 0] + rows[:, None] + across.repeat_interleave(side)[:, None, None]  # (B, k k, h, w)
    x_at = moved[:, :, 1] + columns + across.repeat(side)[:, None, None]
    grid = torch.stack([(2 * x_at + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    grid = grid.view(images, taps, places, 2)
    read = F.grid_sample(x, grid, mode='bilinear', padding_mode='zeros', align_corners=False)
    read = read * strength.reshape(images, 1, taps, places)  # (B, C, k k, h w)
    found = weight.flatten(1) @ read.reshape(images, channels * taps, places)  # (B, O, h w)
    return found.view(images, -1, *size) + bias[:, None, None]
