"""Interpolation as a matrix product, for graphs whose sizes are symbols.

n: samples before, m: samples after the interpolation.

``F.interpolate`` on a grid of symbolic size is not available in every runtime, and ONNX has no bicubic kernel
with the coefficients of torch's antialiased one.  A matrix has the same result everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CUBIC = {True: -0.5, False: -0.75}  # torch's coefficients, with antialias and without


def interpolation_matrix(
    source: int, target: int, mode: str, antialias: bool = False, scale: float | None = None
) -> Tensor:
    """(m, n) weights of ``F.interpolate(..., align_corners=False)`` along one axis, rows sum to 1.

    Args:
        source: n, a number.
        target: m, a number or the symbol of a size.
        mode: 'bilinear', 'bicubic' or 'nearest'.
        antialias: as in ``F.interpolate``.
        scale: source samples per target sample; n / m by default.

    Raises:
        ValueError: another mode.
    """
    if mode not in ('bilinear', 'bicubic', 'nearest'):
        raise ValueError(f'mode {mode!r} cannot be exported: use bilinear, bicubic or nearest')
    places = torch.arange(source, dtype=torch.float32)  # (n,)
    rows = torch.arange(target, dtype=torch.float32)[:, None]  # (m, 1)
    step = torch.full((1, 1), float(source)) / rows.new_ones(target).sum() if scale is None else scale
    if mode == 'nearest':
        return (places == (rows * step).floor()).float()
    if antialias:
        wide = torch.clamp(torch.as_tensor(step), min=1.0)
        weights = _kernel((places + 0.5 - (rows + 0.5) * step) / wide, mode, antialias)  # (m, n)
        return weights / weights.sum(dim=1, keepdim=True)
    center = (rows + 0.5) * step - 0.5
    center = center.clamp(min=0) if mode == 'bilinear' else center
    first = center.floor()
    total = torch.zeros_like(rows * places)
    for offset in (0, 1) if mode == 'bilinear' else (-1, 0, 1, 2):
        tap = first + offset
        weight = _kernel(tap - center, mode, antialias)  # (m, 1)
        total = total + weight * (places == tap.clamp(0, source - 1))
    return total


def _kernel(x: Tensor, mode: str, antialias: bool) -> Tensor:
    """Weight at a distance."""
    x = x.abs()
    if mode == 'bilinear':
        return (1 - x).clamp(min=0)
    a = _CUBIC[antialias]
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
