"""Position embeddings resized to any grid.

P: leading tokens without a place in the grid (class token), (h, w): patch grid, C: width.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_positions(
    positions: Tensor,
    grid: tuple[int, int],
    *,
    prefix: int = 1,
    mode: str = 'bicubic',
    antialias: bool = True,
) -> Tensor:
    """(P + n * n, C) -> (P + h * w, C): the square grid is interpolated, the leading tokens are kept.

    bicubic with antialias is open_clip's rule (``resize_pos_embed``); OpenAI made ViT-L/14@336 with bilinear,
    Hugging Face interpolates bicubic without antialias.

    Raises:
        ValueError: the stored embeddings are no square grid.
    """
    leading, body = positions[:prefix], positions[prefix:]
    side = isqrt(len(body))
    if side * side != len(body):
        raise ValueError(f'{len(body)} position embeddings are not a square grid')
    if grid == (side, side):
        return positions
    image = body.unflatten(0, (side, side)).permute(2, 0, 1)[None]  # (1, C, n, n)
    smooth = mode in ('bilinear', 'bicubic')  # the other modes know neither corners nor antialias
    options = {'align_corners': False, 'antialias': antialias} if smooth else {}
    image = F.interpolate(image.float(), grid, mode=mode, **options)
    return torch.cat([leading, image[0].flatten(1).mT.to(body.dtype)])


def resize_text_positions(positions: Tensor, length: int) -> Tensor:
    """(L, C) -> (length, C), linear (open_clip ``resize_text_pos_embed``)."""
    if len(positions) == length:
        return positions
    line = F.interpolate(positions.mT[None], length, mode='linear', align_corners=False)
    return line[0].mT
