"""Strict loading: every tensor of a file has its place in the model, and every place its tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from clipdense.utils.errors import CheckpointError


def load_strict(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights that must fit the model name by name and shape by shape; else nothing changes.

    Raises:
        CheckpointError: with the numbers and first names of those that do not, see ``misfits``.
    """
    state = _without_prefix(state)
    ours = model.state_dict()
    kind = type(model).__name__
    if state and not state.keys() & ours.keys():
        raise CheckpointError(
            f'{source} does not fit {kind}, of which it holds nothing '
            f'(its tensors are {first_names(state, 3)}): give weights of {kind}'
        )
    if told := misfits(ours, state):
        matched = sum(name in state and state[name].shape == ours[name].shape for name in ours)
        raise CheckpointError(f'{source} does not fit {kind}: {matched} of {len(ours)} tensors match; {told}')
    model.load_state_dict(state)


def misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], leftover: Iterable[str] = ()) -> str:
    """What is missing, without a place or of another shape, with counts and first names; '' where all fits.

    Args:
        expected, found: tensors by name, of the model and of the weights.
        leftover: names in the file that were not even renamed.
    """
    problems = {
        'missing': [name for name in expected if name not in found],
        'without a place': [*leftover, *(name for name in found if name not in expected)],
        'of another shape': [
            f'{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}'
            for name, tensor in expected.items()
            if found.get(name, tensor).shape != tensor.shape
        ],
    }
    return '; '.join(
        f'{len(names)} {what} ({first_names(names)})' for what, names in problems.items() if names
    )


def first_names(names: Iterable[str], limit: int = 10) -> str:
    """The first names, and dots where there are more."""
    names = list(names)
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as they were before DDP or torch.compile wrapped the model."""
    names = list(state)
    for prefix in ('module.', '_orig_mod.'):
        if names and all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))
