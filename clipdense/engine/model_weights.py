"""Weights of any CLIP for a model that trains a CLIP, and the metadata of models."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from clipdense.clip import checkpoint as clip_checkpoint
from clipdense.clip.model import CLIP
from clipdense.clip.sizes import VitSize


def is_clip_alone(model: nn.Module) -> bool:
    """Whether all parameters of a model belong to its CLIP, as in pre-training."""
    clip = getattr(model, 'clip', None)
    return type(clip) is CLIP and all(name.startswith('clip.') for name in model.state_dict())


def clip_weights(model: Any, weights: str) -> dict[str, Tensor]:
    """Weights of any CLIP with the names of ``model``; the activation must match the model's."""
    size = model.clip.size
    activations: dict[str, Any] = {'text_activation': size.text.activation}
    if isinstance(size.image, VitSize):
        activations['activation'] = size.image.activation
    clip = clip_checkpoint.load(weights, **activations)
    return {f'clip.{name}': tensor for name, tensor in clip.state_dict().items()}


def model_meta(model: nn.Module) -> dict[str, Any]:
    """Metadata of a model for ``clipdense.load``: the settings of its CLIP, and its vocabulary.

    A model adds its own with ``checkpoint_meta() -> dict``.
    """
    own: Any = getattr(model, 'checkpoint_meta', dict)
    meta: dict[str, Any] = own()
    vocabulary = getattr(model, 'vocabulary', None)
    if vocabulary is not None:
        meta['vocabulary'] = {'class_names': list(vocabulary.class_names), 'digest': vocabulary.digest}
    clip = getattr(model, 'clip', None)
    if isinstance(clip, CLIP) and any(child is clip for child in model.children()):  # not an external teacher
        meta['clip'] = clip_checkpoint.describe(clip.size, clip.preprocess)
    return meta
