"""ResCLIP's two halves: attention mixed with that of the middle layers, and what a first answer says about
which patches belong together.

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

_BASES = {  # what is compared, whether near patches count more, whether residual and feed-forward stay
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
    """One round of ResCLIP on another method's attention -> (B, D, h, w).

    Args:
        last: the last attention.
        crossed: (B, heads, T, T) mean attention of middle layers.
        base, std: see ``resclip``.
        cross: share of ``crossed``, and the factor on the mixture.
        feedback: what becomes of the products (B, heads, T, T) before the softmax.
    """
    if base not in _BASES:
        raise InputError(f'resclip stands on {sorted(_BASES)}, not on {base!r}.{nearest(base, _BASES)}')
    sides, near, residual = _BASES[base]
    place = neighbourhood(last.grid, std, last.prefix, last.key) if near else 0.0
    weights = sum((feedback(like_with_like(getattr(last, side))) + place).softmax(dim=-1) for side in sides)
    share, gain = cross
    return last.embed(gain * ((1 - share) * weights + share * crossed) @ last.value, residual)


def same_object(labels: Tensor, std: float) -> Tensor:
    """How much patches belong together, by their labels: (B, h, w) -> (B, N, N), at most 1.

    Patches of one class count 1 where the straight line between them stays in the class, and less with
    distance where it leaves it; others 0.  Rows are then smoothed along the row-major order of the patches,
    as the released code does, and made to sum to one before the largest is set to 1.

    Args:
        labels: (B, h, w) class of each patch.
        std: of the smoothing, in patches.

    Source: ResCLIP (arXiv 2411.15851) section 3.3.  The released code checks only part of the line between
    patches that are near each other; here all of it counts, as the paper has it.
    """
    joined, distance = _joined(labels)
    flat = labels.flatten(1)
    same = (flat[:, :, None] == flat[:, None]).to(distance.dtype)
    faded = (-distance / distance.amax().clamp(min=1)).exp()
    weight = same * torch.where(joined, torch.ones_like(faded), faded)  # (B, N, N)
    weight = _smooth(weight, std)
    weight = weight / weight.sum(dim=-1, keepdim=True).clamp(min=1e-8)
    return weight / weight.amax(dim=(1, 2), keepdim=True).clamp(min=1e-8)


def _joined(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether every patch on the line has the label of its start (B, N, N); distances in steps (N, N)."""
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
    """(B, N, N), along the last dimension; outside is 0."""
    length = min(rows.shape[-1], int(6 * std + 1)) // 2 * 2 + 1
    offset = torch.arange(length, device=rows.device, dtype=rows.dtype) - length // 2
    kernel = (-(offset**2) / (2 * std**2)).exp()
    kernel = kernel / kernel.sum()
    return F.conv1d(rows.flatten(0, 1)[:, None], kernel[None, None], padding=length // 2)[:, 0].view(
        rows.shape
    )
