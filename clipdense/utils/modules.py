"""Context managers for the mode and the device of modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule's mode is restored afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def placed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a module to a device, and back afterwards."""
    home = next(module.parameters()).device
    module.to(device)
    try:
        yield
    finally:
        module.to(home)


@contextmanager
def meta_device() -> Iterator[None]:
    """Modules built here have names, shapes and dtypes, but no memory and no initial values.

    ``torch.device('meta')`` alone still runs the initialization: torch does that for normal numbers by its
    reference implementation in Python, which imports torch._dynamo and takes longer than importing torch.
    """
    with torch.device('meta'), _NoRandomNumbers():
        yield


class _NoRandomNumbers(TorchFunctionMode):
    """Tensors without memory are not filled with random numbers."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, '__name__', '') in ('normal_', 'uniform_'):
            tensor = args[0] if args else kwargs['tensor']
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
