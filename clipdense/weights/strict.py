"""Strict loading of state dicts, with short errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from clipdense.utils.errors import CheckpointError


def load_strict(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights whose names and shapes must match the model; otherwise the model is left unchanged.

    Raises:
        CheckpointError: mismatches, with counts and first names, see ``mismatches``.
    """
    state = _without_prefix(state)
    ours = model.state_dict()
    kind = type(model).__name__
    if state and not state.keys() & ours.keys():
        raise CheckpointError(
            f'{source} does not match {kind}: none of its tensors match (they are {first_names(state, 3)}); '
            f'give weights of {kind}'
        )
    if problems := mismatches(ours, state):
        matched = sum(name in state and state[name].shape == ours[name].shape for name in ours)
        raise CheckpointError(
            f'{source} does not match {kind}: {matched} of {len(ours)} tensors match; {problems}'
        )
    model.load_state_dict(state)


def mismatches(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], leftover: Iterable[str] = ()
) -> str:
    """Tensors that are missing, unexpected or of another shape, with counts and first names; '' if all match.

    Args:
        expected, found: tensors by name, of the model and of the weights.
        leftover: names in the file that could not be renamed.
    """
    problems = {
        'missing': [name for name in expected if name not in found],
        'unexpected': [*leftover, *(name for name in found if name not in expected)],
        'of another shape': [
            f'{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}'
            for name, tensor in expected.items()
            if found.get(name, tensor).shape != tensor.shape
        ],
    }
    return '; '.join(
        f'{len(names)} {what} ({first_names(names)})' for what, names in problems.items() if names
    )


def first_names(names: Iterable[str], limit: int = 10) -> str:
    """The first names, and dots if there are more."""
    names = list(names)
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefixes of DDP and torch.compile."""
    names = list(state)
    for prefix in ('module.', '_orig_mod.'):
        if names and all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))
