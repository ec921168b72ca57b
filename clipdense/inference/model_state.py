"""Lock, device and data type of the model of a predictor."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

import torch
from torch import nn

from clipdense.layers.precision import Precision, resolve_precision, warn_if_emulated
from clipdense.utils.errors import InputError

_GUARD = threading.Lock()
_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()


def lock_of(model: nn.Module) -> threading.RLock:
    """Predictors of one model take turns: the model keeps the class names of a call."""
    with _GUARD:
        return _LOCKS.setdefault(model, threading.RLock())


def device_of(model: nn.Module) -> torch.device:
    """The device of the parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device('cpu'))


def parameter_dtype(model: nn.Module) -> torch.dtype:
    """The data type of the parameters."""
    return next((parameter.dtype for parameter in model.parameters()), torch.float32)


def autocast_dtype(model: nn.Module, precision: Precision) -> torch.dtype | None:
    """The dtype of autocast for a model; None computes in the type of its parameters.

    Raises:
        InputError: an unknown precision, or one for parameters that are not fp32.

    Warns:
        UserWarning: bf16 on a device without bf16 units.
    """
    dtype = resolve_precision(precision, device_of(model))
    own = parameter_dtype(model)
    if own == torch.float32:
        warn_if_emulated(dtype, device_of(model))
        return dtype
    if precision != 'auto':
        raise InputError(
            f'precision={precision!r} needs parameters in torch.float32, they are {own}: leave out dtype, or '
            f"precision, whose 'auto' computes in the type of the parameters"
        )
    return None
