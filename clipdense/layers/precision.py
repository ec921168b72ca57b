"""Precision of sensitive steps."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision becomes single; single and double stay."""
    return x.to(dtype_at_least_fp32(x))


def dtype_at_least_fp32(x: Tensor) -> torch.dtype:
    """fp64 for double, else fp32."""
    return torch.promote_types(x.dtype, torch.float32)
