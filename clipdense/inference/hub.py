"""Any weights, by name or file, as a model that is ready for words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipdense.clip import checkpoint as clip_checkpoint
from clipdense.clip import self_describing as portable
from clipdense.clip.model import CLIP
from clipdense.config import load_config, part_class
from clipdense.methods.dense_clip.segmenter import DenseCLIP, default_slide
from clipdense.methods.groupvit import checkpoint as groupvit_checkpoint
from clipdense.methods.groupvit.model import GroupVit
from clipdense.methods.groupvit.segmenter import BACKGROUND_THRESHOLDS, GroupVitSegmenter
from clipdense.methods.groupvit.segmenter import default_slide as group_slide
from clipdense.methods.lseg import checkpoint as lseg_checkpoint
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.registry import MODELS
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import read_weights
from clipdense.weights.strict import load_strict


def load(
    weights: str | Path,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> CLIP | LSeg:
    """Any model from its weights, in evaluation mode: a CLIP, a GroupViT (which is a CLIP too) or an LSeg.

    A detector is what ``Detector.from_pretrained`` opens; of its exported file this returns the model.

    Args:
        weights: a file or folder in any official format, what training left of a CLIP, GroupViT or LSeg
            (the exported file or a checkpoint), or a name from `clipdense models` such as 'ViT-B-16/openai'.
        device: where the model goes.
        dtype: of its numbers; fp32 unless said, whatever the file holds.
        overrides: what the weights do not tell: of a CLIP ``activation='quick_gelu'`` and so on (see
            ``clip.facts.Overrides``), of a GroupViT or an LSeg what its ``from_official`` takes; an LSeg
            that was trained here tells all.

    Raises:
        CheckpointError: damaged or unsafe, of no known layout, keys and shapes that do not fit, or something
            that only an override can tell.
        InputError: an unknown name or override, a download that failed, or a missing device.
    """
    opened = clip_checkpoint.open_weights(weights)
    file = opened.file
    if config := portable.read_config(file):
        if overrides:
            raise InputError(f'{weights} tells everything itself: leave {next(iter(overrides))} out')
        model: CLIP | LSeg = portable.build(file, config)
    elif groupvit_checkpoint.recognise(file.tensors):
        model = groupvit_checkpoint.from_file(file, **overrides)
    elif lseg_checkpoint.recognise(file.tensors):
        model = lseg_checkpoint.from_official(file.tensors, **overrides)
    else:
        return clip_checkpoint.load(opened, device, dtype, **overrides)
    return model.to(choose_device(str(device)), dtype)


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
    """A CLIP or GroupViT in evaluation mode; ``overrides`` are those of ``load``.

    Raises:
        InputError: weights of an LSeg or a detector, which keep only half a CLIP.
    """
    place = choose_device(device)
    clip = weights if isinstance(weights, CLIP) else load(weights, **overrides)
    if not isinstance(clip, CLIP):
        kind = type(clip).__name__
        raise InputError(f'{weights} ({kind}) holds half a CLIP only: give the weights of a whole one')
    return clip.to(place).eval()


def load_segmenter(
    weights: str | Path | CLIP,
    method: str | None = None,
    slide: Slide | int | None = None,
    background_threshold: float | None = None,
    device: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    proxy: nn.Module | str | None = None,
    **overrides: Any,
) -> SegmentationModel:
    """A segmenter out of any weights: a CLIP by a training-free method, a GroupViT or an LSeg by itself.

    Args:
        weights: as ``load`` takes them, or a model.
        method: name of a training-free method, 'maskclip' unless said.
        slide: how images are brought before the tower; a number is the shorter side they are resized to.
        background_threshold: score below which a pixel is background; the method's own unless said.
        device: see ``choose_device``.
        options, proxy: of the training-free method, see ``DenseCLIP``.
        overrides: of ``load``.

    Raises:
        InputError: a training-free method, or options of one, for weights that were trained to segment; or
            weights of a detector.
    """
    place = choose_device(device)
    model = weights if isinstance(weights, CLIP) else load(weights, **overrides)
    if not isinstance(model, CLIP | SegmentationModel):
        kind = type(model).__name__
        raise InputError(f'{weights} ({kind}) segments no images: give a segmenter, or a CLIP')
    asked = {'method': method, 'options': options, 'proxy': proxy}
    given = next((name for name, value in asked.items() if value), None)
    if given and isinstance(model, LSeg | GroupVit):
        kind = type(model).__name__
        raise InputError(f'{weights} is a {kind}, which segments by itself: leave {given} out')
    if isinstance(model, LSeg):
        segmenter: SegmentationModel = model
        model.slide = Slide(short_side=slide) if isinstance(slide, int) else slide or model.slide
    elif isinstance(model, GroupVit):
        threshold = BACKGROUND_THRESHOLDS['voc'] if background_threshold is None else background_threshold
        segmenter = GroupVitSegmenter(model, _slide(slide, group_slide, model), threshold)
    else:
        slide = _slide(slide, default_slide, model)
        segmenter = DenseCLIP(model, method or 'maskclip', slide, options=options, proxy=proxy)
    segmenter.background_threshold = background_threshold or 0.0
    return segmenter.to(place).eval()


def load_trained(
    config: str | Path,
    weights: str | Path,
    device: str | None = None,
    options: Sequence[str] | Mapping[str, Any] = (),
) -> SegmentationModel:
    """A segmenter as a config describes it, with the weights that training left.

    Args:
        config: a file, or the name of a config.
        weights: a checkpoint whose names and shapes fit; for a training-free model those of its CLIP.
        device: see ``choose_device``.
        options: ``['key.of.entry=value', ...]`` or a dict, replacing entries of the config.

    Raises:
        InputError: a config of something else than a segmenter.
        CheckpointError: weights that do not fit.
    """
    place = choose_device(device)
    part = load_config(config, options).get('model') or {}
    kind = part_class(part)
    if not (isinstance(kind, type) and issubclass(kind, SegmentationModel)):
        raise InputError(f'{config} describes no segmenter, but {getattr(kind, "__name__", "nothing")}')
    argument = getattr(kind, 'weights_argument', None)
    if argument:
        part[argument] = str(weights)
    model = MODELS.build(part)
    if not argument:
        load_strict(model, read_weights(weights).tensors, weights)
    return model.to(place).eval()


def as_vocabulary(words: Vocabulary | str | list[str] | tuple[str, ...]) -> Vocabulary:
    """A vocabulary as it is, or made from a list of names; a string is read as the command line reads it."""
    if isinstance(words, Vocabulary):
        return words
    if isinstance(words, str):
        return Vocabulary.parse(words)
    if not isinstance(words, list | tuple):
        raise InputError(f'words are a list of names or one text with commas, not {type(words).__name__}')
    return Vocabulary(tuple(words))


def _slide(slide: Slide | int | None, default: Callable[..., Slide], model: CLIP) -> Slide:
    return slide if isinstance(slide, Slide) else default(model, slide)
