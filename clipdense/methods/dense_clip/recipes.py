"""One short function for each training-free method, side by side.

B: windows, N: patches, (h, w): patch grid, C: width, D: joint space.

A recipe takes the image transformer, the inputs of the layers that it names, (B, 1 + N, C) each, the
grid and, if it needs them, the class embeddings; it returns the pixel embeddings (B, D, h, w), not yet
normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from clipdense.clip.vit import VisionTransformer
from clipdense.utils.errors import InputError, nearest

Inputs = Mapping[int, Tensor]
Grid = tuple[int, int]


@dataclass(frozen=True)
class Recipe:
    """A named function and the layers whose inputs it reads."""

    name: str
    layers: tuple[int, ...]
    embed: Callable[[VisionTransformer, Inputs, Grid, Tensor | None], Tensor]


RECIPES: dict[str, Recipe] = {}


def recipe(*layers: int) -> Callable[[Callable], Callable]:
    """Register a function as a recipe that reads the inputs of ``layers``."""

    def register(embed: Callable) -> Callable:
        RECIPES[embed.__name__] = Recipe(embed.__name__, layers, embed)
        return embed

    return register


def find_recipe(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        InputError: an unknown name.
    """
    if name not in RECIPES:
        raise InputError(f'unknown method {name!r}: choose from {sorted(RECIPES)}.{nearest(name, RECIPES)}')
    return RECIPES[name]


@recipe(-1)
def vanilla(vit: VisionTransformer, inputs: Inputs, grid: Grid, text: Tensor | None = None) -> Tensor:
    """The last block as it was trained: patches mix with whatever the class token wanted of them."""
    return vit.project_patches(_patches(vit, vit.blocks[-1](inputs[-1]), grid), grid)


@recipe(-1)
def maskclip(vit: VisionTransformer, inputs: Inputs, grid: Grid, text: Tensor | None = None) -> Tensor:
    """Each patch attends to itself alone; residual and feed-forward stay, as in the released code."""
    block = vit.blocks[-1]
    x = inputs[-1] + _own_value(vit, inputs[-1])
    x = x + block.mlp(block.norm2(x))
    return vit.project_patches(_patches(vit, x, grid), grid)


@recipe(-1)
def maskclip_no_residual(
    vit: VisionTransformer, inputs: Inputs, grid: Grid, text: Tensor | None = None
) -> Tensor:
    """Each patch attends to itself alone and nothing else is added (ClearCLIP's ``ignore_residual``)."""
    return vit.project_patches(_patches(vit, _own_value(vit, inputs[-1]), grid), grid)


def _own_value(vit: VisionTransformer, x: Tensor) -> Tensor:
    """(B, 1 + N, C) through the last attention's value path, without attention."""
    attention = vit.blocks[-1].attn
    return attention.merge(attention.split(vit.blocks[-1].norm1(x))[2])


def _patches(vit: VisionTransformer, tokens: Tensor, grid: Grid) -> Tensor:
    """(B, 1 + N + extra, C) -> (B, N, C)."""
    return tokens[:, vit.prefix : vit.prefix + grid[0] * grid[1]]
