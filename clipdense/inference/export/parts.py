"""Which part of which weights is exported."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipdense.clip.frozen_image import FrozenImage
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.graphs import Graph, classifier_graph, image_graph, pixels_graph, text_graph
from clipdense.clip.model import CLIP
from clipdense.inference.load import load, load_detector, load_segmenter, method_of
from clipdense.inference.predictor import Predictor
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.utils.errors import InputError

_OF_CLIP: dict[str, Callable[[Any], Graph]] = {
    'image': image_graph,
    'text': text_graph,
    'pixels': pixels_graph,
    'classifier': classifier_graph,
}


def find_graph(
    weights: Any,
    part: str | None,
    method: str | None,
    method_options: Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
) -> Graph:
    """The part of these weights as a graph.

    Args:
        weights: as ``load`` takes them, or a model.
        part: see ``export``.
        method, method_options, overrides: as ``load_segmenter`` takes them.

    Raises:
        InputError: the weights have no such part, or their method cannot be exported.
    """
    if isinstance(weights, str | Path):
        model = load(weights, 'cpu', **overrides)
    elif overrides:
        raise InputError(f'{next(iter(overrides))!r} applies to weights given by name or file: remove it')
    else:
        model = weights.model if isinstance(weights, Predictor) else weights
        if not isinstance(model, nn.Module):
            raise InputError(f'weights must be a name, a path or a model, got {type(weights).__name__}')
    if getattr(weights, 'adapter', None) is not None or getattr(model, 'adapter', None) is not None:
        raise InputError('an adapter is not part of a graph: export the model without it')
    model = _plain(model)
    part = part or _own_part(model, method)
    if part in _OF_CLIP:
        if method_options:
            raise InputError(f'method options apply to the part segmenter, not to {part}: remove them')
        return _OF_CLIP[part](_clip_of(model, part, weights))
    if part == 'segmenter':
        model = load_segmenter(model, method, 'cpu', method_options=method_options)
    else:
        model = load_detector(model, method, 'cpu', method_options=method_options)
    entry = method_of(model)
    if entry is None or entry.graph is None:
        own = type(model).__name__ if entry is None else entry.name
        why = 'its entry in the table of methods has no graph' if entry is None else entry.no_graph
        raise InputError(f'{own} cannot be exported: {why or "its method has no graph"}')
    return entry.part('graph')(model)


def _plain(model: nn.Module) -> Any:
    """The model on the CPU in fp32, in evaluation mode; a copy of one that is not."""
    plain = {(torch.device('cpu'), torch.float32)}
    if {(one.device, one.dtype) for one in model.parameters()} <= plain and not model.training:
        return model
    return copy.deepcopy(model).to('cpu', torch.float32).eval()


def _own_part(model: Any, method: str | None) -> str:
    """What is exported of a model if no part is named."""
    entry = method_of(model)
    if entry is not None and entry.task == 'detection':
        return 'detector'
    if method or isinstance(model, SegmentationModel) or (entry and entry.task == 'segmentation'):
        return 'segmenter'
    if isinstance(model, FrozenImage):
        return 'image'
    return 'text' if isinstance(model, FrozenText) else 'classifier'


def _clip_of(model: Any, part: str, source: Any) -> Any:
    """The CLIP, or the tower, in a model.

    Raises:
        InputError: it has none with this part.
    """
    name = 'encode_text' if part == 'text' else 'encode_image'
    for one in (model, getattr(model, 'clip', None)):
        if isinstance(one, CLIP | FrozenImage | FrozenText) and hasattr(one, name):
            return one
    kind = source if isinstance(source, str | Path) else type(model).__name__
    raise InputError(f'{kind} ({type(model).__name__}) has no part {part!r}')
