"""How deep in a tower each parameter lies: for freezing its first layers, and for rates by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from clipdense.utils.errors import InputError


def parameter_depths(module: nn.Module, layers: Sequence[str], first: Sequence[str]) -> dict[str, int]:
    """The depth of each parameter by name.

    Args:
        module: a tower.
        layers: names of its layers, from input to output; layer i has depth i + 1.
        first: names of what comes before them: depth 0.

    Returns:
        Depths by parameter name; what is in neither list, such as the last norm and the projection, comes
        after the layers: depth ``len(layers) + 1``.
    """
    depths = {**dict.fromkeys(first, 0), **{name: index for index, name in enumerate(layers, start=1)}}
    return {
        name: next((depth for part, depth in depths.items() if _inside(name, part)), len(layers) + 1)
        for name, _ in module.named_parameters()
    }


def lock_layers(tower: Any, unlocked: int = 0) -> None:
    """Freeze a tower except for its last groups of layers.

    The last group is the final norm and the projection, the one before it the last block, and so on; the
    first is the embedding of patches or tokens.  What is frozen also stays in evaluation mode if
    ``keep_locked`` is called after each ``train()``.

    Args:
        tower: has ``parameter_depths()``.
        unlocked: number of groups that are trained; 0 freezes all.

    Raises:
        InputError: a negative number, or as many groups as the tower has.
    """
    depths: Mapping[str, int] = tower.parameter_depths()
    count = max(depths.values()) + 1
    if not 0 <= unlocked < count:
        raise InputError(
            f'unlocked_groups must be in 0 .. {count - 1}, since the {type(tower).__name__} has {count} '
            f'groups of layers, got {unlocked!r}'
        )
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(depths[name] >= count - unlocked)
    keep_locked(tower)


def keep_locked(tower: nn.Module) -> None:
    """Put parts whose parameters are all frozen into evaluation mode: batch norms keep their statistics."""
    for module in tower.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def _inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f'{part}.')
