"""Weights into models: strictly, of any CLIP into a CLIP under training, and what is said about them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clipdense.clip import checkpoint as clip_checkpoint
from clipdense.clip.model import CLIP
from clipdense.clip.sizes import VitSize
from clipdense.utils.errors import CheckpointError
from clipdense.weights.formats import first_names, misfits


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


def is_clip_alone(model: nn.Module) -> bool:
    """Whether everything that a model has learned is in its CLIP, as under pre-training."""
    clip = getattr(model, 'clip', None)
    return type(clip) is CLIP and all(name.startswith('clip.') for name in model.state_dict())


def clip_weights(model: Any, weights: str) -> dict[str, Tensor]:
    """Weights of any CLIP under the names of ``model``; another activation than the model's is refused."""
    size = model.clip.size
    activations: dict[str, Any] = {'text_activation': size.text.activation}
    if isinstance(size.image, VitSize):
        activations['activation'] = size.image.activation
    clip = clip_checkpoint.load(weights, **activations)
    return {f'clip.{name}': tensor for name, tensor in clip.state_dict().items()}


def model_meta(model: nn.Module) -> dict[str, Any]:
    """What ``clipdense.load`` and a reader want to know of a model: its CLIP and its vocabulary."""
    meta: dict[str, Any] = {}
    vocabulary = getattr(model, 'vocabulary', None)
    if vocabulary is not None:
        meta['vocabulary'] = {'class_names': list(vocabulary.class_names), 'digest': vocabulary.digest}
    clip = getattr(model, 'clip', None)
    if isinstance(clip, CLIP) and any(child is clip for child in model.children()):  # no teacher beside it
        meta['clip'] = clip_checkpoint.describe(clip.size, clip.preprocess)
    return meta


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as they were before DDP or torch.compile wrapped the model."""
    names = list(state)
    for prefix in ('module.', '_orig_mod.'):
        if names and all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))
