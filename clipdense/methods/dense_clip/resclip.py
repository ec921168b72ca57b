"""ResCLIP: attention mixed with that of the middle layers, and feedback from a first prediction.

B: windows, N: patches, T: tokens, (h, w): patch grid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.dense import LastAttention
from clipdense.utils.errors import InputError, nearest

from .affinities import like_with_like, neighbourhood

_BASES = {  # self-self attention of, with a Gaussian of the distance, with residual and feed-forward
    'sclip': (('query', 'key'), False, True),
    'clearclip': (('query',), False, False),
    'naclip': (('key',), True, False),
}


def resclip_round(
    last: LastAttention,
    crossed: Tensor,
    base: str,
    std: float,
    cross: tuple[float, float],
    feedback: Callable,
) -> Tensor:
    """One pass of ResCLIP with the attention of a base method -> (B, D, h, w).

    Args:
        last: the last attention.
        crossed: (B, heads, T, T) mean attention of middle layers.
        base, std: see ``resclip``.
        cross: share of ``crossed``, and the factor on the mixture.
        feedback: function of the attention logits (B, heads, T, T), applied before the softmax.

    Raises:
        InputError: an unknown base method.
    """
    if base not in _BASES:
        known = sorted(_BASES)
        raise InputError(
            f'option base of method resclip must be one of {known}, got {base!r}.{nearest(base, known)}'
        )
    sides, near, residual = _BASES[base]
    place = neighbourhood(last.grid, std, last.prefix, last.key) if near else 0.0
    weights = sum((feedback(like_with_like(getattr(last, side))) + place).softmax(dim=-1) for side in sides)
    share, gain = cross
    return last.embed(gain * ((1 - share) * weights + share * crossed) @ last.value, residual)


def same_object(labels: Tensor, std: float) -> Tensor:
    """Affinity of patches from their labels: (B, h, w) -> (B, N, N), at most 1.

    Two patches of one class have affinity 1 if the straight line between them stays in the class, and an
    affinity that decreases with their distance otherwise; patches of different classes have 0.  As in the
    released code, rows are smoothed along the row-major order of the patches and normalized to sum 1; then
    all are divided by their maximum.

    Args:
        labels: (B, h, w) class of each patch.
        std: standard deviation of the smoothing in patches.

    Source: ResCLIP (arXiv 2411.15851) section 3.3.  The released code checks only part of the line between
    nearby patches; this implementation checks all of it, as in the paper.
    """
    joined, distance = _joined(labels)
    flat = labels.flatten(1)
    same = (flat[:, :, None] == flat[:, None]).to(distance.dtype)
    faded = (-distance / distance.amax(dim=(0, 1)).clamp(min=1)).exp()
    weight = same * torch.where(joined, torch.ones_like(faded), faded)  # (B, N, N)
    weight = _smooth(weight, std)
    weight = weight / weight.sum(dim=-1, keepdim=True).clamp(min=1e-8)
    return weight / weight.amax(dim=(1, 2), keepdim=True).clamp(min=1e-8)


def _joined(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether all patches on a line have the label of its start (B, N, N); distances in steps (N, N)."""
    height, width = labels.shape[1:]
    flat = labels.flatten(1)  # (B, N)
    sides = (torch.arange(side, device=labels.device) for side in (height, width))
    place = torch.cartesian_prod(*sides)  # (N, 2)
    way = (place[None] - place[:, None]).float()  # (N, N, 2)
    distance = way.abs().amax(dim=-1)
    joined = flat[:, :, None] == flat[:, None]
    for step in range(1, max(height, width) - 1):
        part = (step / distance.clamp(min=1)).clamp(max=1)
        row, column = (place[:, None] + way * part[..., None]).round().long().unbind(-1)
        passed = flat[:, (row * width + column).flatten()].unflatten(1, distance.shape)
        joined = joined & (passed == flat[:, :, None])
    return joined, distance


def _smooth(rows: Tensor, std: float) -> Tensor:
    """(B, N, N) smoothed along the last dimension, zero-padded."""
    length = min(rows.shape[-1], int(6 * std + 1)) // 2 * 2 + 1
    offset = torch.arange(length, device=rows.device, dtype=rows.dtype) - length // 2
    kernel = (-(offset**2) / (2 * std**2)).exp()
    kernel = kernel / kernel.sum()
    return F.conv1d(rows.flatten(0, 1)[:, None], kernel[None, None], padding=length // 2)[:, 0].view(
        rows.shape
    )
