"""Adapters in files: ours are self-describing; those of the official code are read.

N: keys, C: classes of a cache, D: joint space.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from clipdense.tasks.adapters import Origin
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.weights.io import WeightsFile, read_tensor
from clipdense.weights.strict import load_strict

from .cache import KeyValueCache
from .method import OFFICIAL_KEYS
from .residual import ClipAdapter
from .search import SearchResult
from .writing import FORMAT, KEYS, LABELS


def cache_from_file(file: WeightsFile) -> KeyValueCache:
    """The cache of a file that ``save`` wrote.

    Raises:
        CheckpointError: the file is damaged.
    """
    settings = _settings(file)
    search = settings.pop('search', None)
    try:
        cache = KeyValueCache(file.tensors[KEYS], file.tensors[LABELS], **settings)
        # Trained keys are not of unit norm, and are kept as they are.
        cache.keys.data = file.tensors[KEYS].float().clone()
        if search is not None:
            cache.search = SearchResult.from_dict(search)
    except (InputError, KeyError, TypeError) as error:
        raise CheckpointError(f'{file.path} is not a valid adapter: {error}') from error
    return cache


def clip_adapter_from_file(file: WeightsFile, ratio: float = 0.2) -> ClipAdapter:
    """The CLIP-Adapter of a file that ``save`` or the official code wrote.

    Args:
        file: its tensors.
        ratio: of an official file, which does not record it.

    Raises:
        CheckpointError: the file is damaged.

    Warns:
        UserWarning: an official file, which does not name the weights that it belongs to.
    """
    tensors = file.tensors
    if set(tensors) <= OFFICIAL_KEYS:
        tensors = {f'image.{name.removeprefix("adapter.")}': tensor for name, tensor in tensors.items()}
        down = tensors['image.fc.0.weight']
        if down.ndim != 2 or 0 in down.shape:
            raise CheckpointError(
                f'{file.path} is not a CLIP-Adapter: its first weight is {tuple(down.shape)}'
            )
        width, dim = down.shape
        settings: dict[str, Any] = {'embed_dim': dim, 'reduction': max(1, dim // width), 'ratio': ratio}
        warnings.warn(
            f'{file.path} does not name its CLIP, ratio and templates: these weights are assumed, and {ratio}'
        )
    else:
        settings = _settings(file)
    try:
        adapter = ClipAdapter(**settings)
    except (InputError, TypeError) as error:
        raise CheckpointError(f'{file.path} is not a valid adapter: {error}') from error
    load_strict(adapter, tensors, file.path)
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(f'{file.path} is damaged: {bad[0]} has NaN or infinite values')
    return adapter.requires_grad_(False)


def official_cache(
    keys: str | Path,
    values: str | Path,
    class_names: Sequence[str],
    trained: str | Path | None = None,
    origin: Origin | None = None,
    **settings: Any,
) -> KeyValueCache:
    """The cache of Tip-Adapter's official files.

    Args:
        keys: ``keys_Kshots.pt``, (D, N).
        values: ``values_Kshots.pt``, (N, C) one-hot.
        class_names: C names in the order of the values, which the files do not record.
        trained: ``best_F_Kshots.pt``, (N, D), keys of Tip-Adapter-F, used instead of ``keys``.
        origin: see ``Adapter``; the files do not record it.
        settings: ``alpha``, ``beta`` and ``balance`` of ``KeyValueCache``.

    Raises:
        CheckpointError: a file without a tensor, or of another shape.
        InputError: another number of class names.
    """
    stored, onehot = read_tensor(keys).float(), read_tensor(values).float()
    if stored.ndim != 2 or onehot.ndim != 2 or stored.shape[1] != len(onehot):
        raise CheckpointError(
            f'{keys} must be keys (D, N) and {values} values (N, C), got {tuple(stored.shape)} and '
            f'{tuple(onehot.shape)}'
        )
    if not torch.equal(onehot.sum(1), torch.ones(len(onehot))) or not onehot.max(1).values.eq(1).all():
        raise CheckpointError(f'{values} must be one-hot: a single 1 in each row')
    if onehot.shape[1] != len(class_names):
        raise InputError(
            f'{values} has {onehot.shape[1]} classes, but {len(class_names)} class names are given'
        )
    cache = KeyValueCache(stored.mT, onehot.argmax(1), class_names, origin=origin, **settings)
    if trained is not None:
        weight = read_tensor(trained).float()
        if weight.shape != cache.keys.shape or not weight.isfinite().all():
            raise CheckpointError(
                f'{trained} must be finite keys {tuple(cache.keys.shape)}, got {tuple(weight.shape)}'
            )
        cache.keys.data = weight.clone()
    return cache


def _settings(file: WeightsFile) -> dict[str, Any]:
    """The settings of one of our files, with its ``Origin``.

    Raises:
        CheckpointError: it has none, or they are damaged.
    """
    if file.metadata.get('format') != FORMAT:
        raise CheckpointError(f'{file.path} has the tensors of an adapter, but does not describe it')
    if file.metadata.get('version') != '1':
        raise CheckpointError(
            f'{file.path} was written by a newer clipdense (version {file.metadata.get("version")!r})'
        )
    try:
        settings = json.loads(file.metadata['settings'])
        return {**settings, 'origin': Origin(**settings['origin'])}
    except (InputError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f'{file.path}: the description of the adapter is damaged: {error}') from error
