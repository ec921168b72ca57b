"""Checks of the values of weights: damaged or foreign numbers are refused before they give wrong results."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from clipdense.utils.errors import CheckpointError

_MAX_SCALE = 1000.0  # published models: 10 to 120, OpenAI's is limited to 100
_TEMPERATURES = 0.2  # a logarithm up to this is rather a temperature (0.01 to 0.1) than a scale of about 1
_MAX_BIAS = 1000.0


def check_values(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse NaN, infinite values, and a ``logit_scale`` or ``logit_bias`` that cannot be right.

    Costs one pass over the memory.

    Raises:
        CheckpointError: naming the tensors.
    """
    if bad := not_finite(tensors):
        shown = ', '.join(bad[:5]) + (', ...' if len(bad) > 5 else '')
        raise CheckpointError(
            f'{source} has weights that are not finite: NaN or infinite values in {len(bad)} of '
            f'{len(tensors)} tensors ({shown}); use an earlier checkpoint, or copy the file again'
        )
    for name, tensor in tensors.items():
        if name.endswith('logit_scale') and tensor.numel() == 1:
            _check_scale(name, float(tensor), source)
        elif name.endswith('logit_bias') and tensor.numel() == 1 and abs(float(tensor)) > _MAX_BIAS:
            raise CheckpointError(f'{source}: {name} is {float(tensor):g}, expected a value of about -10')


def check_cast(tensors: Mapping[str, Tensor], source: str | Path, dtype: torch.dtype) -> None:
    """Refuse values that were finite before they were converted to half precision.

    Raises:
        CheckpointError: naming the tensors.
    """
    if dtype in (torch.float16, torch.bfloat16) and (bad := not_finite(tensors)):
        raise CheckpointError(
            f'{source} has values that are too large for {dtype} ({", ".join(bad[:5])}): use torch.float32'
        )


def not_finite(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the floating-point tensors that have NaN or infinite values."""
    items = tensors.items() if isinstance(tensors, Mapping) else tensors
    return [name for name, tensor in items if not _is_finite(tensor)]


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; their sum shows it, without a second array."""
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    if tensor.element_size() == 1:  # fp8 has no sum
        tensor = tensor.half()
    accumulate = torch.promote_types(tensor.dtype, torch.float32)
    if bool(tensor.sum(dtype=accumulate).isfinite()):
        return True
    return bool(tensor.isfinite().all())  # the sum of large values may overflow


def _check_scale(name: str, value: float, source: str | Path) -> None:
    """``logit_scale`` stores the logarithm of the factor on the cosines."""
    if abs(value) > math.log(_MAX_SCALE):
        fix = f'its logarithm ({math.log(value):.4f})' if value > 0 else 'the logarithm of the scale'
        raise CheckpointError(
            f'{source}: {name} is {value:g}, but the logarithm of the scale is expected, at most '
            f'{math.log(_MAX_SCALE):.1f} (OpenAI: log(100) = 4.6052); if the file stores the scale itself, '
            f'replace it by {fix}'
        )
    if value <= _TEMPERATURES and value != 0:
        fix = 'a temperature, replace it by log(1 / temperature)'
        fix = fix if value > 0 else 'the logarithm of a temperature, change its sign'
        warnings.warn(
            f'{source}: {name} is {value:g}, a scale of {math.exp(value):.2f}: all classes will have nearly '
            f'equal probabilities. If the file stores {fix}',
            stacklevel=2,
        )
