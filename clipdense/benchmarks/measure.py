"""Measure one method on one dataset under one preset, and record all conditions.

K: classes, (H, W): pixels.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from clipdense.clip.class_embeddings import class_embedder, module_digest
from clipdense.data.segmentation.datasets import LabeledImages, VOCSegmentation
from clipdense.data.segmentation.published import BenchmarkSegmentation, find_benchmark
from clipdense.evaluation.segmentation import SegmentationEvaluator, SegmentationScores
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import digest
from clipdense.utils.modules import evaluating
from clipdense.vocab.templates import get_templates
from clipdense.vocab.vocabulary import Vocabulary

from .presets import FAMILIES, Preset, default_preset, find_preset, resizing_positions

FORMAT = 'clipdense segmentation benchmark 2'
Build = Callable[[str, Preset], SegmentationModel]
"""(method name, preset) -> segmenter with the settings of the preset."""
_SETTINGS = ('slide', 'logit_scale', 'background_threshold', 'area_threshold', 'refiner')


@dataclass(frozen=True)
class Subject:
    """The weights to measure, and how segmenters are built from them.

    Args:
        model: a CLIP, or a trained segmentation model.
        name: of the weights.
        build: builds the segmenter.
        methods: names that ``build`` accepts for these weights.
        trained: the model is a trained segmentation model, so settings of training-free methods (logit scale,
            position embeddings, options) do not apply.
        options: by method, options that differ from the preset's, such as ``{'proxyclip': {'proxy': ...}}``.
    """

    model: nn.Module
    name: str
    build: Build
    methods: tuple[str, ...]
    trained: bool = False
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """The device of the model."""
        return str(next(self.model.parameters()).device)

    @contextmanager
    def segmenter(self, method: str, preset: Preset) -> Iterator[SegmentationModel]:
        """A segmenter in evaluation mode under a preset; the model is restored afterwards.

        Raises:
            InputError: the weights do not support the settings.
        """
        model = self.model
        before = {name: getattr(model, name) for name in _SETTINGS if hasattr(model, name)}
        with evaluating(model), resizing_positions(model, preset.position_mode):
            try:
                yield self.build(method, preset)
            finally:
                for name, value in before.items():
                    setattr(model, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Identity of the weights: SHA-256 of the tensors, sizes with activations, preprocessing."""
        parts: dict[str, Any] = {name: getattr(self.model, name, None) for name in ('size', 'preprocess')}
        facts = {name: part.to_dict() for name, part in parts.items() if hasattr(part, 'to_dict')}
        return {'digest': module_digest(self.model), **facts}


@dataclass(frozen=True)
class Source:
    """Location of datasets.

    Args:
        root: folder of all published datasets.
        split: of folders in PASCAL VOC format, if not given as ``FOLDER:SPLIT``.
        partial: allow incomplete published datasets.
        limit: images of each dataset; all by default.
        workers: processes that read.
    """

    root: Path = Path('data')
    split: str = 'val'
    partial: bool = False
    limit: int | None = None
    workers: int = 0

    def open(self, dataset: str, words: str = '') -> LabeledImages:
        """A published dataset by its name, or a folder in PASCAL VOC format, ``FOLDER`` or ``FOLDER:SPLIT``.

        Raises:
            InputError: it does not exist or is incomplete.
        """
        place = find_folder(dataset)
        if place is None:
            return BenchmarkSegmentation(dataset, self.root, words or None, self.partial, self.limit)
        folder = VOCSegmentation(place.folder, place.split or self.split)
        folder.images, folder.masks = folder.images[: self.limit], folder.masks[: self.limit]
        return folder


class Place(NamedTuple):
    """A folder in PASCAL VOC format and one of its splits; empty for the default."""

    folder: Path
    split: str


def find_folder(dataset: str) -> Place | None:
    """Parse ``FOLDER`` or ``FOLDER:SPLIT``; None for the name of a published dataset."""
    folder, _, split = dataset.rpartition(':')
    places = [Place(Path(dataset), ''), *([Place(Path(folder), split)] if folder else [])]
    return next((place for place in places if (place.folder / 'ImageSets').is_dir()), None)


def preset_of(method: str, dataset: str, name: str | None = None, trained: bool = False) -> Preset:
    """The named preset, or that of the method, for this dataset.

    Options apply only to the method of the family; under presets of other families a trained model keeps its
    logit scale and position mode.

    Raises:
        InputError: an unknown dataset or preset.
    """
    known = '' if find_folder(dataset) else find_benchmark(dataset).name
    preset = find_preset(name or default_preset(method, known, trained), known)
    if method == FAMILIES[preset.name].method:
        return preset
    preset = replace(preset, options={})
    return replace(preset, logit_scale=None, position_mode='') if trained else preset


def check_method(method: str, methods: tuple[str, ...]) -> None:
    """Check the name of a method.

    Raises:
        InputError: an unknown name; the message suggests the nearest.
    """
    if method not in methods:
        known = ', '.join(sorted(methods))
        raise InputError(
            f'unknown method {method!r}.{nearest(method, methods)} Methods for these weights: {known}'
        )


def measure(
    subject: Subject, method: str, data: LabeledImages, preset: Preset, workers: int = 0
) -> tuple[SegmentationScores, float]:
    """Scores over a dataset, and the seconds that reading and segmenting took.

    Raises:
        InputError: an image or mask is damaged, or the weights do not support the settings.
    """
    with subject.segmenter(method, preset) as model:
        set_class_names(model, data.vocabulary, preset.templates)
        evaluator = SegmentationEvaluator(data, workers=workers, title=f'{method} on {data.root.name}')
        start = time.perf_counter()
        return evaluator(model), time.perf_counter() - start


def set_class_names(model: SegmentationModel, vocabulary: Vocabulary, templates: str) -> None:
    """Embed the class names with the model's embedder and set them."""
    embedder = class_embedder(model, templates=templates, cache='default')
    model.set_vocabulary(vocabulary, embedder.embed(vocabulary))


def conditions(
    subject: Subject, method: str, dataset: str, data: LabeledImages, preset: Preset
) -> dict[str, Any]:
    """All conditions of a score, as plain values."""
    return {
        'format': FORMAT,
        'method': method,
        'dataset': dataset_name(dataset),
        'preset': preset.to_dict(),
        'options': dict(subject.options.get(method, {})),
        'templates': get_templates(preset.templates).formats,
        'vocabulary': {'digest': data.vocabulary.digest, 'words': len(data.vocabulary.queries)},
        'weights': subject.to_dict(),
        'data': {'digest': data.digest, 'images': len(data)},
        'version': version('clipdense'),
    }


def key_of(conditions: Mapping[str, Any]) -> str:
    """A stable hash of the conditions."""
    return digest(FORMAT, json.dumps(conditions, sort_keys=True))[:16]


def record(
    conditions: Mapping[str, Any],
    subject: Subject,
    data: LabeledImages,
    scores: SegmentationScores,
    seconds: float,
) -> dict[str, Any]:
    """Contents of a result file: conditions, scores, speed, versions and date.

    ``scores`` are fractions with the names and values of ``clipdense test``; the others are in percent, for
    tables.
    """
    facts = getattr(data, 'benchmark', None)
    names = data.vocabulary.class_names
    return {
        **conditions,
        'key': key_of(conditions),
        'weights': {'name': subject.name, **conditions['weights']},
        'data': {
            **conditions['data'],
            'root': str(data.root),
            'published_images': facts.num_images if facts else None,
            'complete': data.complete if isinstance(data, BenchmarkSegmentation) else None,
        },
        'scores': {name: value if value == value else None for name, value in scores.to_dict().items()},
        'miou': _percent(scores.mean_iou),
        'pixel_accuracy': _percent(scores.classes.pixel_accuracy),
        'mean_accuracy': _percent(scores.classes.mean_accuracy),
        'classes': {
            name: _percent(iou) for name, iou in zip(names, scores.classes.iou.tolist(), strict=True)
        },
        'seconds': round(seconds, 2),
        'images_per_second': round(len(data) / seconds, 3) if seconds else None,
        'device': subject.device,
        'versions': {
            'clipdense': version('clipdense'),
            'torch': str(torch.__version__),
            'python': platform.python_version(),
        },
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
    }


def dataset_name(dataset: str) -> str:
    """The name of a dataset in results: that of a published dataset, or of the folder."""
    place = find_folder(dataset)
    if place is None:
        return find_benchmark(dataset).name
    name = place.folder.resolve().name
    return f'{name}:{place.split}' if place.split else name


def _percent(share: float) -> float | None:
    return round(100 * share, 4) if share == share else None
