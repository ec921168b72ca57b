"""Names of tensors without what wrappers of training programs add to them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from clipdense.utils.errors import CheckpointError

# DataParallel and DistributedDataParallel of a part; torch.compile; activation checkpointing; FSDP.
_INNER = re.compile(
    r'(?<=\.)module\.|(?:^|(?<=\.))(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.'
)
_OUTER = 'module.'  # of DataParallel, DistributedDataParallel and AveragedModel: all tensors have it
_COUNTERS = {'n_averaged', 'steps'}  # of AveragedModel and of MMEngine's averages: not part of the model


def unwrapped_names(names: Iterable[str]) -> dict[str, str]:
    """Each name -> the name without wrappers; the counters of an averaged model are left out.

    Raises:
        CheckpointError: two tensors have the same name without wrappers.
    """
    short = {name: _INNER.sub('', name) for name in names}
    inside = {name: found for name, found in short.items() if found not in _COUNTERS}
    if inside and all(found.startswith(_OUTER) for found in inside.values()):
        short = {name: _INNER.sub('', found.removeprefix(_OUTER)) for name, found in inside.items()}
    if len(set(short.values())) < len(short):
        first: dict[str, str] = {}
        same = next(name for name, found in short.items() if first.setdefault(found, name) != name)
        raise CheckpointError(
            f'the tensors {first[short[same]]} and {same} have the same name {short[same]} without wrappers'
        )
    return short
