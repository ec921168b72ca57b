"""Patch embedding, and resizing of position embeddings to any grid.

B: images, N: patches, P: leading tokens outside the grid (class token), (h, w): patch grid,
C: width.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.utils.errors import InputError

from .exporting import exporting
from .interpolation import interpolation_matrix


def patch_tokens(images: Tensor, projection: nn.Conv2d) -> tuple[Tensor, tuple[int, int]]:
    """(B, 3, H, W) -> a token for each patch (B, N, C), grid.  Incomplete patches are dropped.

    Args:
        images: normalized.
        projection: a convolution whose kernel size is its stride.

    Raises:
        InputError: images smaller than one patch.
    """
    patch = projection.kernel_size[0]
    if any(side < patch for side in images.shape[-2:]):
        raise InputError(f'images of {tuple(images.shape[-2:])} pixels are smaller than a patch ({patch})')
    x = projection(images.to(projection.weight.dtype))  # (B, C, h, w)
    return x.flatten(2).mT, (x.shape[-2], x.shape[-1])


def resize_positions(
    positions: Tensor,
    grid: tuple[int, int],
    *,
    prefix: int = 1,
    mode: str = 'bicubic',
    antialias: bool = True,
) -> Tensor:
    """(P + n * n, C) -> (P + h * w, C): the square grid is interpolated, the leading tokens are kept.

    Args:
        positions: (P + n * n, C).
        grid: (h, w).
        prefix: P.
        mode: of F.interpolate, or 'dino': bicubic at scale (h + 0.1) / n without antialias, as in the
            code of DINO, SCLIP, ClearCLIP and NACLIP.
        antialias: for 'bilinear' and 'bicubic'.  Bicubic with it is open_clip's ``resize_pos_embed``; Hugging
            Face uses no antialias; OpenAI resized ViT-L/14@336 with bilinear.

    Raises:
        ValueError: the stored embeddings do not form a square grid.
    """
    leading, body = positions[:prefix], positions[prefix:]
    side = isqrt(len(body))
    if side * side != len(body):
        raise ValueError(f'{len(body)} position embeddings do not form a square grid')
    if not exporting() and grid == (side, side):
        return positions
    image = body.unflatten(0, (side, side)).permute(2, 0, 1)[None]  # (1, C, n, n)
    image = _interpolate(image.float(), grid, mode, antialias)[0]  # (C, h, w)
    return torch.cat([leading, image.flatten(1).mT.to(body.dtype)])


def _interpolate(image: Tensor, grid: tuple[int, int], mode: str, antialias: bool) -> Tensor:
    if exporting():
        return _by_matrices(image, grid, mode, antialias)
    if mode == 'dino':
        side = image.shape[-1]
        scale = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
        return F.interpolate(image, scale_factor=scale, mode='bicubic', align_corners=False)
    if mode in ('bilinear', 'bicubic'):
        return F.interpolate(image, grid, mode=mode, align_corners=False, antialias=antialias)
    return F.interpolate(image, grid, mode=mode)  # other modes take neither align_corners nor antialias


def _by_matrices(image: Tensor, grid: tuple[int, int], mode: str, antialias: bool) -> Tensor:
    """The same for a grid whose size is a symbol."""
    side = image.shape[-1]
    dino = mode == 'dino'
    down, across = (
        interpolation_matrix(
            side,
            length,
            'bicubic' if dino else mode,
            antialias and not dino,
            scale=side / (length + 0.1) if dino else None,
        ).to(image.device)
        for length in grid
    )
    return down @ image @ across.mT
