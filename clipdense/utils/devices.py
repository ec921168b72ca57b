"""The device and the data type that a model runs with."""

from __future__ import annotations

import torch

from clipdense.utils.errors import InputError

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def choose_device(device: str | int | torch.device | None) -> torch.device:
    """The named device; None means the GPU if there is one.

    Raises:
        InputError: the device is not available on this machine, or does not hold values.
    """
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        chosen = torch.device(device)
        if chosen.type == 'meta':
            raise InputError("device 'meta' holds no values: use 'cpu' or 'cuda'")
        torch.empty(1, device=chosen)
    except InputError:
        raise
    except Exception as error:  # backends of torch raise RuntimeError, AssertionError, ImportError, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition('. ')[0]
        gpu = isinstance(device, str) and device.strip().lower() in ('gpu', 'nvidia')
        hint = "a GPU is 'cuda'" if gpu else "try device='cpu'"
        raise InputError(f'device {str(device)!r} is not available ({reason}): {hint}') from error
    return chosen


def choose_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """The data type of the parameters; None means fp32.

    Raises:
        InputError: a type in which models do not run.
    """
    if dtype is None:
        return torch.float32
    if dtype not in DTYPES:
        raise InputError(f'dtype must be {", ".join(map(str, DTYPES))}, got {dtype!r}')
    return dtype
