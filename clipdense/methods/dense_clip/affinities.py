"""Self-self attention, similarity attention and the Gaussian of patch distances.

B: windows, N: patches, P: tokens before the first patch, T: P + N, (h, w): patch grid, C: width, d: width of
a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.dense import Grid
from clipdense.layers.precision import at_least_fp32, no_autocast


def like_with_like(x: Tensor) -> Tensor:
    """(B, heads, T, d) -> (B, heads, T, T): dot products of the tokens, scaled by d ** -0.5."""
    return x @ x.mT * x.shape[-1] ** -0.5


def cosine_map(x: Tensor) -> Tensor:
    """(B, N, C) -> (B, N, N): pairwise cosines, at least fp32, since methods compare them with thresholds."""
    with no_autocast(x.device):
        x = F.normalize(at_least_fp32(x), dim=-1)
        return x @ x.mT


def similarity_attention(cosines: Tensor, beta: float, gamma: float) -> Tensor:
    """Cosines (B, N, N) -> attention (B, N, N); cosines below beta times the mean are masked out.

    The highest cosine of each row is always kept.  The mean is computed per image; the released code of
    ProxyCLIP and SC-CLIP processes one image at a time.
    """
    logits = (cosines - beta * cosines.mean(dim=(1, 2), keepdim=True)) * gamma
    lowest = logits.amax(dim=-1, keepdim=True).clamp(max=0)  # if all are equal, none is above the mean
    return logits.masked_fill(logits < lowest, float('-inf')).softmax(dim=-1)


def neighbourhood(grid: Grid, std: float, prefix: int, like: Tensor) -> Tensor:
    """(T, T) of the device and dtype of ``like``: exp(-distance^2 / (2 std^2)) between patches, 0 for others.

    Args:
        grid: (h, w).
        std: standard deviation in patches.
        prefix: P, the number of tokens before the first patch.
        like: any tensor.

    Source: NACLIP ``gaussian_window`` and ``get_attention_addition``.
    """
    rows, columns = (torch.arange(side, device=like.device, dtype=like.dtype) for side in grid)
    row, column = ((-((line[:, None] - line) ** 2) / (2 * std**2)).exp() for line in (rows, columns))
    # The 2-d Gaussian is the product of two 1-d Gaussians; torch.kron cannot be traced with sizes as symbols.
    nearness = (row[:, None, :, None] * column[None, :, None]).flatten(2).flatten(0, 1)  # (N, N)
    return F.pad(nearness, (prefix, 0, prefix, 0))
