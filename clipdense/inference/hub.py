"""Any weights, by name or file, as a model that is ready for words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipdense.clip.checkpoint import load
from clipdense.clip.model import CLIP
from clipdense.methods.dense_clip.segmenter import DenseCLIP, default_slide
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary


def choose_device(device: str | None) -> torch.device:
    """The named device, or a GPU where there is one.

    Raises:
        InputError: a device that this machine does not have.
    """
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used here ({reason}); try device='cpu'") from error
    return torch.device(device)


def load_clip(weights: str | Path | CLIP, device: str | None = None, **overrides: Any) -> CLIP:
    """A CLIP in evaluation mode; ``overrides`` are those of ``clipdense.load``."""
    place = choose_device(device)
    clip = weights if isinstance(weights, CLIP) else load(weights, **overrides)
    return clip.to(place).eval()


def load_segmenter(
    weights: str | Path | CLIP,
    method: str = 'maskclip',
    slide: Slide | int | None = None,
    background_threshold: float = 0.0,
    device: str | None = None,
    *,
    area_threshold: float = 0.0,
    refiner: nn.Module | None = None,
    options: Mapping[str, Any] | None = None,
    proxy: nn.Module | str | None = None,
    **overrides: Any,
) -> DenseCLIP:
    """A training-free segmenter out of any CLIP weights.

    Args:
        weights: a name in the zoo, a file in any official format, or a model.
        method: name of a recipe.
        slide: how pictures are brought before the tower; a number is the shorter side they are resized to.
        background_threshold: probability below which a pixel is background.
        device: see ``choose_device``.
        area_threshold, refiner, options, proxy: see ``DenseCLIP``.
        overrides: of ``clipdense.load``.
    """
    clip = load_clip(weights, device, **overrides)
    if not isinstance(slide, Slide):
        slide = default_slide(clip, slide)
    model = DenseCLIP(
        clip,
        method,
        slide,
        background_threshold=background_threshold,
        area_threshold=area_threshold,
        refiner=refiner,
        options=options,
        proxy=proxy,
    )
    return model.to(next(clip.parameters()).device).eval()


def as_vocabulary(words: Vocabulary | str | list[str] | tuple[str, ...]) -> Vocabulary:
    """A vocabulary as it is, or made from a list of names; a string is read as the command line reads it."""
    if isinstance(words, Vocabulary):
        return words
    if isinstance(words, str):
        return Vocabulary.parse(words)
    return Vocabulary(tuple(words))
