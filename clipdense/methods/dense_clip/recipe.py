"""What a training-free method is, and how one is found by name.

B: windows, (h, w): patch grid, D: joint space, K: classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from clipdense.utils.errors import InputError, nearest


@dataclass(frozen=True)
class Recipe:
    """A named function and, where the method needs the words, its second half."""

    name: str
    embed: Callable[..., Any]
    read: Callable[..., Tensor] | None = None
    needs_transformer: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Names and defaults of what can be set."""
        both = [signature(half).parameters.values() for half in (self.embed, self.read) if half is not None]
        named = [one for half in both for one in half if one.kind is Parameter.KEYWORD_ONLY]
        return {one.name: one.default for one in named if one.name != 'proxy'}

    @property
    def needs_proxy(self) -> bool:
        """Whether it looks through a second backbone."""
        return 'proxy' in signature(self.embed).parameters

    def with_options(self, options: Mapping[str, Any]) -> Recipe:
        """The same with options set.

        Raises:
            InputError: one that it does not have.
        """
        for name in options:
            if name not in self.options:
                known = ', '.join(f'{key}={value}' for key, value in self.options.items()) or 'none'
                hint = nearest(name, self.options)
                raise InputError(f'method {self.name!r} has no option {name!r}; its options: {known}.{hint}')
        embed = partial(self.embed, **_own(self.embed, options))
        read = self.read and partial(self.read, **_own(self.read, options))
        return replace(self, embed=embed, read=read)


RECIPES: dict[str, Recipe] = {}


def recipe(
    read: Callable[..., Tensor] | None = None, needs_transformer: bool = False
) -> Callable[[Callable], Callable]:
    """Register a function as a recipe."""

    def register(embed: Callable) -> Callable:
        RECIPES[embed.__name__] = Recipe(embed.__name__, embed, read, needs_transformer)
        return embed

    return register


def find_recipe(name: str, options: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe called ``name``.

    Raises:
        InputError: an unknown name or option.
    """
    if name not in RECIPES:
        raise InputError(f'unknown method {name!r}: choose from {sorted(RECIPES)}.{nearest(name, RECIPES)}')
    return RECIPES[name].with_options(options or {})


def cosines(embeddings: Tensor, text: Tensor) -> Tensor:
    """(B, D, h, w), (K, D) or (B, K, D) -> (B, K, h, w)."""
    return torch.einsum('bdhw,bkd->bkhw' if text.ndim == 3 else 'bdhw,kd->bkhw', embeddings, text)


def _own(half: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are this half's."""
    return {name: value for name, value in options.items() if name in signature(half).parameters}
