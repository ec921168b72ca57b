"""Load adapters: what changes the embeddings and class scores of a frozen model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipdense.clip.model import CLIP
from clipdense.methods import adapting_method, find_method
from clipdense.tasks.adapters import Adapter, Kind, check_adapter
from clipdense.utils.errors import InputError
from clipdense.vocab.templates import Templates
from clipdense.weights.io import BARE, read_weights

from .load import Embedder, load, load_detector, load_embedder, load_segmenter

if TYPE_CHECKING:
    from clipdense.data.labeled import LabeledData


def read_adapter(path: str | Path) -> Adapter:
    """The adapter of a file that `clipdense adapt` wrote, or of an official file of CLIP-Adapter.

    Raises:
        InputError: a file without an adapter.
        CheckpointError: a damaged file.
    """
    file = read_weights(path)
    if BARE in file.tensors:
        raise InputError(
            f'{path} is one tensor {tuple(file.tensors[BARE].shape)}, not an adapter: if it is of '
            'Tip-Adapter, write a file with class names (`clipdense embed tip-cache KEYS VALUES`)'
        )
    method = find_method(file.tensors)
    if method is None and all(name.startswith('adapter.') for name in file.tensors):
        raise InputError(
            f'{path} is a checkpoint of an adapter: use the adapter.safetensors that training writes '
            'next to it when it ends'
        )
    if method is None or method.adapter is None:
        what = f'weights of {method.name}' if method else 'weights of an unknown layout'
        prompts = method is not None and method.embedder is not None
        todo = '--prompts (in Python embedder=...)' if prompts else None
        raise InputError(
            f'{path} contains {what}, not an adapter: '
            + (f'give it with {todo}' if todo else 'use a file written by `clipdense adapt`')
        )
    return method.part('adapter')(file)


def make_adapter(
    weights: str | Path | Any,
    labels: LabeledData,
    method: str = 'tip',
    *,
    options: Mapping[str, Any] | None = None,
    dense_method: str | None = None,
    templates: Templates | None = None,
    embedder: Embedder | None = None,
    device: str | torch.device | None = None,
    cache: bool = True,
    **overrides: Any,
) -> Adapter:
    """An adapter from a few labeled images, masks or boxes.

    Args:
        weights: a CLIP for images, and for boxes, whose content is then embedded as images; a segmenter, or
            a CLIP with a dense method, for masks; a detector for boxes.  As ``load`` takes them, or a model.
        labels: the examples, and others to validate with.
        method: a method with ``adapt``: 'tip', 'tip_f' or 'clip_adapter'.
        options: of the method, see ``get_method(name).options``.
        dense_method: training-free method that embeds the pixels of a plain CLIP.
        templates, embedder, cache: as in ``load_embedder``.
        device, overrides: as in ``load``.

    Raises:
        InputError: an unknown method or option, data that cannot be used, or a model that cannot embed it.

    Example:
        >>> adapter = make_adapter('ViT-B-16/openai', LabeledData('pets', shots=16, validation='rest'))
        >>> Classifier.from_pretrained('ViT-B-16/openai', adapter=adapter)('cat.jpg', ['cat', 'dog'])
    """
    entry = adapting_method(method)
    given = dict(options or {})
    entry.check_options(given)
    kind = labels.kind
    if dense_method is not None and kind != 'masks':
        raise InputError(
            f'a dense method embeds pixels, but the examples are {kind}: remove --dense-method, or in Python '
            f'dense_method={dense_method!r}'
        )
    model = load(weights, device, **overrides) if isinstance(weights, str | Path) else weights
    if kind == 'masks':
        model = load_segmenter(model, dense_method, device)
    elif kind == 'boxes' and not isinstance(model, CLIP):
        model = load_detector(model, device=device)
    elif not isinstance(model, CLIP):
        raise InputError(f'labeled images need weights of a CLIP, not of a {type(model).__name__}')
    names = load_embedder(model, embedder, templates, cache)
    defaults = {option.name: option.default for option in entry.options}
    return entry.part('adapt')(model.eval(), names, labels, {**defaults, **given}).cpu()


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
