"""Weights into models: strictly, of any CLIP into a CLIP under training, and what is said about them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from clipdense.clip import checkpoint as clip_checkpoint
from clipdense.clip.model import CLIP
from clipdense.clip.sizes import VitSize


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
