"""The device and the data type that a model runs with."""

from __future__ import annotations

import torch

from .device_names import device_name, dtype_name
from .errors import InputError

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def choose_device(device: str | int | torch.device | None) -> torch.device:
    """The named device; None means the GPU if there is one, and a number that GPU.

    Raises:
        InputError: the device is unknown, not available on this machine, or does not hold values.
    """
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        chosen = device if isinstance(device, torch.device) else torch.device(device_name(device))
        if chosen.type == 'meta':
            raise InputError("device 'meta' holds no values: use 'cpu' or 'cuda'")
        torch.empty(1, device=chosen)
    except InputError:
        raise
    except Exception as error:  # backends of torch raise RuntimeError, AssertionError, ImportError, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition('. ')[0]
        raise InputError(f"device {str(device)!r} is not available ({reason}): try device='cpu'") from error
    return chosen


def choose_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """The data type of the parameters, also by name, such as 'fp16'; None means fp32.

    Raises:
        InputError: a type in which models do not run.
    """
    if dtype is None:
        return torch.float32
    if isinstance(dtype, str):
        return getattr(torch, dtype_name(dtype))
    if dtype not in DTYPES:
        raise InputError(f'dtype must be {", ".join(map(str, DTYPES))}, got {dtype!r}')
    return dtype
