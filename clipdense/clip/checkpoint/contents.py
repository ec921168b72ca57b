"""What a file of weights has: a CLIP, or one tower of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from clipdense.utils.errors import CheckpointError, InputError

from ..frozen_image import FrozenImage
from ..frozen_text import FrozenText
from ..model import CLIP, MAX_LOGIT_SCALE, build_clip, build_image_tower, build_text_tower
from ..preprocess import Preprocess
from ..sizes import AnyTextSize, ClipSize, ImageSize
from .layouts import Recognized
from .settings import Overrides

Half = FrozenImage | FrozenText
AnyClip = CLIP | Half

BOTH = ('image', 'text')

# What one tower can be used for.
USES = {
    'image': 'it can classify and segment with a file of class embeddings (--embedder FILE, embedder=FILE)',
    'text': 'it can write files of class embeddings (`clipdense embed`)',
}
# Settings of the other tower, which have no effect on one alone.
_OTHERS = {
    'image': ('text_activation', 'text_num_heads', 'eos_token_id', 'language'),
    'text': ('num_heads', 'preprocess'),
}
# A tower without projection in transformers, and the tensor that it lacks.
_UNPROJECTED = {
    'image': ('CLIPVisionModel', 'visual_projection'),
    'text': ('CLIPTextModel', 'text_projection'),
}


@dataclass(frozen=True)
class ClipWeights:
    """The weights and settings of a CLIP, without its modules.

    Args:
        path: of the file.
        tensors: under the names of clipdense, in the file's dtypes.
        leftover: names in the file that the layout does not define.
        size, preprocess, tokenizer: settings of the model; a tokenizer of None is OpenAI's.
    """

    path: Path
    tensors: dict[str, Tensor]
    leftover: list[str]
    size: ClipSize
    preprocess: Preprocess
    tokenizer: Callable[..., Any] | None

    def build(self) -> CLIP:
        """The model with random weights."""
        return build_clip(self.size, self.preprocess, self.tokenizer)

    @property
    def sizes(self) -> tuple[ImageSize | AnyTextSize, ...]:
        """Of the towers."""
        return self.size.image, self.size.text


@dataclass(frozen=True)
class ImageWeights:
    """The weights and settings of an image tower; fields as in ``ClipWeights``."""

    path: Path
    tensors: dict[str, Tensor]
    leftover: list[str]
    size: ImageSize
    preprocess: Preprocess
    scale_known: bool = True
    tower: ClassVar[str] = 'image'

    @classmethod
    def of(cls, path: Path, found: Recognized, size: ImageSize, preprocess: Preprocess) -> ImageWeights:
        """From the tensors of a file; the scale of published CLIPs is assumed if there is none."""
        known = 'logit_scale' in found.tensors
        scale = {} if known else {'logit_scale': torch.tensor(log(MAX_LOGIT_SCALE))}
        tensors = {name: x for name, x in found.tensors.items() if name != 'logit_bias'}
        return cls(path, {**tensors, **scale}, found.leftover, size, preprocess, known)

    def build(self) -> FrozenImage:
        """The model with random weights."""
        return FrozenImage(build_image_tower(self.size), self.preprocess, self.scale_known)

    @property
    def sizes(self) -> tuple[ImageSize, ...]:
        """Of the tower."""
        return (self.size,)


@dataclass(frozen=True)
class TextWeights:
    """The weights and settings of a text tower; fields as in ``ClipWeights``."""

    path: Path
    tensors: dict[str, Tensor]
    leftover: list[str]
    size: AnyTextSize
    tokenizer: Callable[..., Any] | None
    tower: ClassVar[str] = 'text'

    @classmethod
    def of(cls, path: Path, found: Recognized, size: AnyTextSize, tokenizer: Any) -> TextWeights:
        """From the tensors of a file, without the scale of the logits."""
        tensors = {name: x for name, x in found.tensors.items() if not name.startswith('logit_')}
        return cls(path, tensors, found.leftover, size, tokenizer)

    def build(self) -> FrozenText:
        """The model with random weights."""
        return FrozenText(build_text_tower(self.size), self.tokenizer)

    @property
    def sizes(self) -> tuple[AnyTextSize, ...]:
        """Of the tower."""
        return (self.size,)


AnyWeights = ClipWeights | ImageWeights | TextWeights


def not_full(source: object, tower: str) -> CheckpointError:
    """The error where weights with one tower, 'image' or 'text', do not suffice."""
    return CheckpointError(f'{source} is not a full CLIP checkpoint ({tower} tower only); {USES[tower]}')


def check_single(found: Recognized, overrides: Overrides) -> None:
    """Refuse a single tower whose features are not in the joint space, and settings of the other tower.

    Raises:
        CheckpointError: it has no projection.
        InputError: an override without effect.
    """
    tower = found.towers[0]
    for option in _OTHERS[tower]:
        if getattr(overrides, option) is not None:
            raise InputError(f'the weights have the {tower} tower only: remove the override {option!r}')
    model, tensor = _UNPROJECTED[tower]
    projections = {'image.proj', 'image.pool.query', 'text.proj'} & found.tensors.keys()
    if found.layout == 'huggingface_clip' and not projections and not found.leftover:
        raise CheckpointError(
            f'the {tower} tower has no projection into the joint space ({tensor}), as a {model} of '
            'transformers: its features cannot be compared with those of the other tower; use the weights '
            f'of a {model}WithProjection'
        )
