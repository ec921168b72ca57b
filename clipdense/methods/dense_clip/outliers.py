"""Outlier patches: detected by their local density, replaced by their neighbors (SC-CLIP).

B: windows, N: patches, (h, w): patch grid, C: width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32


def find_outliers(tokens: Tensor, neighbours: int, share: float) -> Tensor:
    """(B, N, C) -> (B, N) bool: the ``share`` of patches with the highest local outlier factor.

    As in the released code, the reachability distance is the patch's own k-distance, so that the density of a
    patch is the inverse of this distance.

    Args:
        tokens: (B, N, C).
        neighbours: k; all other patches if there are fewer.
        share: fraction of the patches.
    """
    count = min(neighbours, tokens.shape[1] - 1)
    if count < 1:
        return torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    tokens = at_least_fp32(tokens)
    distance = torch.cdist(tokens, tokens).square()  # (B, N, N)
    nearest, place = distance.topk(count + 1, largest=False)  # the first is the patch itself
    density = 1 / nearest[..., -1].clamp(min=1e-6)  # (B, N)
    around = density.gather(1, place[..., 1:].flatten(1)).unflatten(1, (-1, count))  # (B, N, k)
    factor = around.mean(dim=-1) / density
    return factor > factor.float().quantile(1 - share, dim=1, keepdim=True)


def repair(tokens: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """Replace outliers by the mean of those of their eight neighbors that are not outliers.

    Args:
        tokens: (B, N, C).
        outliers: (B, N) bool.
        grid: (h, w).
    """
    kept = (~outliers).to(tokens.dtype)[..., None]  # (B, N, 1)
    image = torch.cat([tokens * kept, kept], dim=-1).mT.unflatten(2, grid)  # (B, C + 1, h, w)
    # Outliers are 0 here, so the 3 x 3 mean divided by the mean of ``kept`` is over inliers only.
    total = F.avg_pool2d(image, 3, stride=1, padding=1).flatten(2).mT  # (B, N, C + 1)
    mean, count = total[..., :-1] / total[..., -1:].clamp(min=1e-6), total[..., -1:]
    return torch.where(outliers[..., None] & (count > 0), mean, tokens)
