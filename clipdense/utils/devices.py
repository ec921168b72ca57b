"""The device that a model runs on."""

from __future__ import annotations

import torch

from clipdense.utils.errors import InputError


def choose_device(device: str | torch.device | None) -> torch.device:
    """The named device; None means the GPU if there is one.

    Raises:
        InputError: the device is not available on this machine.
    """
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {str(device)!r} is not available ({reason}): try device='cpu'") from error
    return torch.device(device)
