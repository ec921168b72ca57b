"""Load adapters: what changes the embeddings and class scores of a frozen model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipdense.methods import find_method
from clipdense.tasks.adapters import Adapter, Kind, check_adapter
from clipdense.utils.errors import InputError
from clipdense.weights.io import read_weights


def read_adapter(path: str | Path) -> Adapter:
    """The adapter of a file that `clipdense adapt` wrote, or of an official file of CLIP-Adapter.

    Raises:
        InputError: a file without an adapter.
        CheckpointError: a damaged file.
    """
    file = read_weights(path)
    method = find_method(file.tensors)
    if method is None or method.adapter is None:
        what = f'weights of {method.name}' if method else 'weights of an unknown layout'
        raise InputError(f'{path} contains {what}, not an adapter: use a file written by `clipdense adapt`')
    return method.part('adapter')(file)


def load_adapter(adapter: Adapter | str | Path, model: Any, kind: Kind) -> Adapter:
    """An adapter for a model.

    Args:
        adapter: an object, or a file, see ``read_adapter``.
        model: a CLIP, segmenter or detector.
        kind: what the model embeds: 'images', 'pixels' or 'regions'.

    Raises:
        InputError: a file without an adapter, an adapter of other weights, or a model that cannot use one.
    """
    found = read_adapter(adapter) if isinstance(adapter, str | Path) else adapter
    if kind != 'images' and not hasattr(model, 'set_adapter'):
        raise InputError(f'a {type(model).__name__} cannot use an adapter: it has no set_adapter')
    try:
        check_adapter(found, model, kind)
    except InputError as error:
        raise InputError(f'{adapter}: {error}') if isinstance(adapter, str | Path) else error from error
    if kind != 'images':
        model.set_adapter(found)  # refused now rather than for the first image
    return found.eval()
