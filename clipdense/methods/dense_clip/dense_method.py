"""The registry of training-free methods.

B: windows, (h, w): patch grid, D: joint space, K: classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter, signature
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from clipdense.utils.errors import InputError, nearest

_RANGES = {  # allowed values of options
    'blocks': (1, inf),
    'neighbours': (1, inf),
    'outlier_share': (0, 1),
    'std': (0.01, inf),
    'temperature': (0.01, inf),
}


@dataclass(frozen=True)
class DenseMethod:
    """A training-free method.

    Args:
        name: name of the method.
        embed: image tower and windows -> pixel embeddings.
        read: tower, features and class embeddings -> class scores, for methods that need the text.
        towers: kinds of image towers that it works on: 'vit', 'resnet', 'timm'.
    """

    name: str
    embed: Callable[..., Any]
    read: Callable[..., Tensor] | None = None
    towers: tuple[str, ...] = ('vit', 'resnet')

    @property
    def options(self) -> dict[str, Any]:
        """Names and defaults of the options."""
        return {name: one.default for name, one in self._parameters.items()}

    @property
    def _parameters(self) -> dict[str, Parameter]:
        both = [signature(half).parameters.values() for half in (self.embed, self.read) if half is not None]
        named = [one for half in both for one in half if one.kind is Parameter.KEYWORD_ONLY]
        return {one.name: one for one in named if one.name != 'proxy'}

    @property
    def needs_proxy(self) -> bool:
        """Whether it needs a second backbone."""
        return 'proxy' in signature(self.embed).parameters

    def with_options(self, options: Mapping[str, Any]) -> DenseMethod:
        """The method with options set.

        Raises:
            InputError: an unknown option, a value of another type than the default, or out of range.
        """
        for name, value in options.items():
            self._check(name, value)
        embed = partial(self.embed, **_own(self.embed, options))
        read = self.read and partial(self.read, **_own(self.read, options))
        return replace(self, embed=embed, read=read)

    def _check(self, name: str, value: Any) -> None:
        if name not in self.options:
            known = ', '.join(f'{key}={default}' for key, default in self.options.items()) or 'none'
            hint = nearest(name, self.options)
            raise InputError(f'method {self.name!r} has no option {name!r}; its options: {known}.{hint}')
        parameter = self._parameters[name]
        if value is None and 'None' in str(parameter.annotation):
            return
        if not _alike(value, parameter.default):
            raise InputError(
                f'option {name} of method {self.name!r} must be {_kind(parameter.default)} such as '
                f'{parameter.default!r}, got {value!r}'
            )
        low, high = _RANGES.get(name, (None, None))
        if low is not None and not low <= value <= high:
            allowed = f'at least {low:g}' if high == inf else f'between {low:g} and {high:g}'
            raise InputError(f'option {name} of method {self.name!r} must be {allowed}, got {value}')


DENSE_METHODS: dict[str, DenseMethod] = {}


def dense_method(
    read: Callable[..., Tensor] | None = None, towers: tuple[str, ...] = ('vit', 'resnet')
) -> Callable[[Callable], Callable]:
    """Register a function as a training-free method, under its name."""

    def register(embed: Callable) -> Callable:
        DENSE_METHODS[embed.__name__] = DenseMethod(embed.__name__, embed, read, towers)
        return embed

    return register


def find_dense_method(name: str, options: Mapping[str, Any] | None = None) -> DenseMethod:
    """The training-free method of this name, with options set.

    Raises:
        InputError: an unknown name or option.
    """
    if name not in DENSE_METHODS:
        raise InputError(
            f'unknown method {name!r}: choose from {sorted(DENSE_METHODS)}.{nearest(name, DENSE_METHODS)}'
        )
    return DENSE_METHODS[name].with_options(options or {})


def cosines(embeddings: Tensor, text: Tensor) -> Tensor:
    """(B, D, h, w), (K, D) or (B, K, D) -> (B, K, h, w)."""
    return torch.einsum('bdhw,bkd->bkhw' if text.ndim == 3 else 'bdhw,kd->bkhw', embeddings, text)


def _alike(value: Any, default: Any) -> bool:
    """Whether a value has the type of the default: a number, a string, a bool, or a tuple of as many."""
    if isinstance(default, tuple):
        listed = isinstance(value, list | tuple) and len(value) == len(default)
        return listed and all(map(_alike, value, default))
    if isinstance(default, bool | str):
        return isinstance(value, type(default))
    number = int if isinstance(default, int) else int | float
    return isinstance(value, number) and not isinstance(value, bool) and isfinite(value)


def _kind(default: Any) -> str:
    """The type of a default, for messages."""
    if isinstance(default, tuple):
        return f'{len(default)} values'
    names = {bool: 'true or false', str: 'a string', int: 'an integer'}
    return names.get(type(default), 'a number')


def _own(function: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that this function takes."""
    return {name: value for name, value in options.items() if name in signature(function).parameters}
