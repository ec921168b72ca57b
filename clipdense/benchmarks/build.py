"""Build segmenters for the benchmarks from any weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from clipdense.clip.checkpoint import not_full
from clipdense.clip.frozen_image import FrozenImage
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import CLIP
from clipdense.inference.load import load_segmenter, method_of, methods_on
from clipdense.methods import get_method, list_methods
from clipdense.tasks.options import SegmentationOptions
from clipdense.tasks.segmentation import SegmentationModel

from .measure import Build, Subject
from .presets import Preset

_TOWERS = {
    'vit': 'a vision transformer of CLIP',
    'resnet': 'a ResNet of CLIP',
    'timm': 'an image tower of timm',
}


def make_subject(
    model: nn.Module, name: str, options: Mapping[str, Mapping[str, Any]] | None = None
) -> Subject:
    """The ``Subject`` of loaded weights.

    Args:
        model: from ``clipdense.load``.
        name: of the weights.
        options: by method, options that differ from the preset's.

    Raises:
        InputError: weights with one tower of a CLIP.
    """
    if isinstance(model, FrozenImage | FrozenText):
        raise not_full(name, model.tower)
    options = options or {}
    entry = method_of(model)
    trained = entry is not None or not isinstance(model, CLIP)
    own = entry.name if entry else type(model).__name__
    if entry is not None and (fitting := methods_on(entry, 'segmentation')):
        methods = tuple(one.name for one in fitting)
    else:
        methods = (
            (own,) if trained else tuple(one.name for one in list_methods('segmentation', any_clip=True))
        )
    return Subject(model, name, builder(model, options), methods, trained, options)


def runnable(subject: Subject) -> tuple[list[str], dict[str, str]]:
    """Which methods can be measured on these weights with the options that are given.

    Returns:
        Names of methods, and of the others with what they need.
    """
    able, skipped = [], {}
    for name in subject.methods:
        if subject.trained:
            able.append(name)
            continue
        method = get_method(name)
        missing = sorted(method.required - subject.options.get(name, {}).keys())
        tower = getattr(subject.model, 'image', None)
        if tower is not None and tower.kind not in method.towers:
            skipped[name] = ' or '.join(_TOWERS[kind] for kind in method.towers)
        elif missing:
            skipped[name] = ' '.join(f'-o {name}.{option}=NAME' for option in missing)
        else:
            able.append(name)
    return able, skipped


def builder(model: Any, options: Mapping[str, Mapping[str, Any]]) -> Build:
    """A function that builds the segmenter of a method under a preset."""
    device = next(model.parameters()).device

    def build(method: str, preset: Preset) -> SegmentationModel:
        own = {**preset.options, **options.get(method, {})}
        segmenter = load_segmenter(model, method, device, method_options=own)
        configure(segmenter, preset)
        return segmenter

    return build


def configure(model: SegmentationModel, preset: Preset) -> None:
    """Apply the settings of a preset to a model; None keeps the model's own.

    Raises:
        InputError: the model does not support the windows.
    """
    model.slide = preset.slide() or model.slide
    if preset.logit_scale is not None:
        model.logit_scale = preset.logit_scale
    model.refiner = preset.refiner()
    model.configure(
        SegmentationOptions(
            background_threshold=preset.background_threshold, area_threshold=preset.area_threshold
        )
    )
