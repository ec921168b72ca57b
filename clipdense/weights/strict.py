"""Strict loading of state dicts, with short errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from clipdense.utils.errors import CheckpointError

from .names import unwrapped_names
from .values import check_values

_COUNTER = 'num_batches_tracked'  # of batch norm; files of old programs lack it, and inference ignores it


def load_strict(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights whose names and shapes must match the model; otherwise the model is left unchanged.

    Wrappers such as ``module.`` in names are ignored.

    Raises:
        CheckpointError: mismatches, with counts and first names, see ``mismatches``; or see ``check_values``.
    """
    own = model.state_dict()
    place = {short: name for name, short in unwrapped_names(own).items()}
    ours = {short: own[name] for short, name in place.items()}
    state = {short: state[name] for name, short in unwrapped_names(state).items()}
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
    check_values(state, source)
    model.load_state_dict({place[name]: tensor for name, tensor in with_counters(ours, state).items()})


def mismatches(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], leftover: Iterable[str] = ()
) -> str:
    """Tensors that do not match, with counts and first names; '' if all match.

    A tensor may be missing, unexpected, of another shape, or of a data type that is not floating-point where
    the model needs it, such as quantized weights.  Counters of batch norm may be missing.

    Args:
        expected, found: tensors by name, of the model and of the weights.
        leftover: names in the file that could not be renamed.
    """
    problems = {
        'missing': [name for name in expected if name not in found and not name.endswith(_COUNTER)],
        'unexpected': [*leftover, *(name for name in found if name not in expected)],
        'of another shape': [
            f'{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}'
            for name, tensor in expected.items()
            if found.get(name, tensor).shape != tensor.shape
        ],
        'not floating-point': [
            f'{name} is {_dtype(found[name])}'
            for name, tensor in expected.items()
            if tensor.is_floating_point() and not found.get(name, tensor).is_floating_point()
        ],
    }
    return '; '.join(
        f'{len(names)} {what} ({first_names(names)})' for what, names in problems.items() if names
    )


def first_names(names: Iterable[str], limit: int = 10) -> str:
    """The first names, and dots if there are more."""
    names = list(names)
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def with_counters(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the weights, and zero for counters of batch norm that only the model has."""
    counters = (name for name in expected if name.endswith(_COUNTER) and name not in found)
    return {**found, **{name: torch.zeros((), dtype=torch.int64) for name in counters}}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix('torch.')
