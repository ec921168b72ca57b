"""The model of a predictor: its lock, device and data type."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from clipdense.layers.precision import Precision, precision_name, resolve_precision, warn_if_emulated
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


class ModelState:
    """A model that predictors take turns with.

    Args:
        model: it is set to evaluation mode.
        precision: see ``autocast_dtype``.

    Raises:
        InputError: as ``autocast_dtype``.
    """

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        self.model: Any = model.eval()
        self._lock = lock_of(model)
        self._autocast = autocast_dtype(model, precision)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which have a lock of their own if they have a model of their own."""
        return {name: value for name, value in self.__dict__.items() if name != '_lock'}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The inverse of ``__getstate__``."""
        self.__dict__.update(state)
        self._lock = lock_of(self.model)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return device_of(self.model)

    @property
    def precision(self) -> str:
        """What the model computes in: 'fp32' or 'bf16'; another type of its parameters, such as 'fp16'."""
        return precision_name(self._autocast or parameter_dtype(self.model))
