"""One method on one dataset under one preset: the number, and everything that it depends on.

K: classes, (H, W): pixels.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader

from clipdense.clip.model import CLIP
from clipdense.clip.text_embeddings import embed_vocabulary, module_digest
from clipdense.data.segmentation.datasets import LabeledImages, VOCSegmentation
from clipdense.data.segmentation.published import BenchmarkSegmentation, find_benchmark
from clipdense.evaluation.mean_iou import IouScores, confusion_matrix, mean_iou
from clipdense.utils.errors import InputError
from clipdense.utils.files import digest
from clipdense.utils.modules import evaluating
from clipdense.utils.progress import track
from clipdense.vocab.templates import get_templates

from .presets import FAMILIES, Preset, default_preset, find_preset, resizing_positions
from .segmenter import DenseCLIP

FORMAT = 'clipdense segmentation benchmark 1'


@dataclass(frozen=True)
class Weights:
    """A CLIP and what it is called."""

    clip: CLIP
    name: str

    def to_dict(self) -> dict[str, Any]:
        """What tells them from others: SHA-256 of the numbers, sizes with activations, preprocessing."""
        size, preprocess = self.clip.size.to_dict(), self.clip.preprocess.to_dict()
        return {'digest': module_digest(self.clip), 'size': size, 'preprocess': preprocess}


@dataclass(frozen=True)
class Source:
    """Where datasets come from.

    Args:
        root: folder of all published datasets.
        split: of folders in PASCAL VOC format, where ``FOLDER:SPLIT`` does not name one.
        partial: take published datasets that are not complete as they are.
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
            InputError: neither is there, or not complete.
        """
        place = find_folder(dataset)
        if place is None:
            return BenchmarkSegmentation(dataset, self.root, words or None, self.partial, self.limit)
        folder = VOCSegmentation(place.folder, place.split or self.split)
        folder.images, folder.masks = folder.images[: self.limit], folder.masks[: self.limit]
        return folder


class Place(NamedTuple):
    """A folder in PASCAL VOC format and one of its lists, empty for the usual one."""

    folder: Path
    split: str


def find_folder(dataset: str) -> Place | None:
    """What ``FOLDER`` or ``FOLDER:SPLIT`` names; None where it is the name of a published dataset."""
    folder, _, split = dataset.rpartition(':')
    places = [Place(Path(dataset), ''), *([Place(Path(folder), split)] if folder else [])]
    return next((place for place in places if (place.folder / 'ImageSets').is_dir()), None)


def preset_of(method: str, dataset: str, name: str | None = None) -> Preset:
    """The named preset, or that of the method, for this dataset; options are for the family's method alone.

    Raises:
        InputError: an unknown dataset or preset.
    """
    known = '' if find_folder(dataset) else find_benchmark(dataset).name
    preset = find_preset(name or default_preset(method, known), known)
    return preset if method == FAMILIES[preset.name].method else replace(preset, options={})


def build_segmenter(
    clip: CLIP, method: str, preset: Preset, proxy: nn.Module | dict | str | None = None
) -> DenseCLIP:
    """A method under the settings of a preset.

    Raises:
        InputError: as ``DenseCLIP``.
    """
    model = DenseCLIP(
        clip,
        method,
        preset.slide(clip),
        preset.logit_scale,
        preset.background_threshold,
        area_threshold=preset.area_threshold,
        refiner=preset.refiner(),
        options=preset.options,
        proxy=proxy if method == 'proxyclip' else None,
    )
    return model.to(next(clip.parameters()).device).eval()


def evaluate(
    weights: Weights,
    method: str,
    data: LabeledImages,
    preset: Preset,
    proxy: nn.Module | dict | str | None = None,
    workers: int = 0,
) -> tuple[IouScores, float]:
    """Scores over a dataset, and the seconds that reading and segmenting took.

    Raises:
        InputError: a broken image or mask, or settings that do not fit the weights.
    """
    with evaluating(weights.clip), resizing_positions(weights.clip, preset.position_mode):
        model = build_segmenter(weights.clip, method, preset, proxy)
        words = data.vocabulary
        model.set_vocabulary(words, embed_vocabulary(weights.clip, words, preset.templates, cache='default'))
        total = torch.zeros(len(words), len(words), dtype=torch.int64)
        start = time.perf_counter()
        items = DataLoader(data, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
        for item in track(items, f'{method} on {data.root.name}', total=len(data)):
            sample = item['samples']
            image = model.data_preprocessor.normalize(item['images'].to(model.queries.device))
            classes = model.segment(image, sample.size).classes.cpu()
            try:
                total += confusion_matrix(classes, sample.mask, len(words), data.ignore_index)
            except InputError as error:
                raise InputError(f'{sample.image_path}: {error}') from error
    return mean_iou(total), time.perf_counter() - start


def conditions(
    weights: Weights,
    method: str,
    dataset: str,
    data: LabeledImages,
    preset: Preset,
    proxy: str | None = None,
) -> dict[str, Any]:
    """Everything that the number depends on, as plain values."""
    return {
        'format': FORMAT,
        'method': method,
        'dataset': dataset_name(dataset),
        'preset': preset.to_dict(),
        'proxy': proxy if method == 'proxyclip' else None,
        'templates': list(get_templates(preset.templates)),
        'vocabulary': {'digest': data.vocabulary.digest, 'words': len(data.vocabulary.queries)},
        'weights': weights.to_dict(),
        'data': {'digest': data.digest, 'images': len(data)},
        'version': version('clipdense'),
    }


def key_of(conditions: Mapping[str, Any]) -> str:
    """The same for the same conditions, whenever and wherever."""
    return digest(FORMAT, json.dumps(conditions, sort_keys=True))[:16]


def record(
    conditions: Mapping[str, Any],
    weights: Weights,
    data: LabeledImages,
    scores: IouScores,
    seconds: float,
) -> dict[str, Any]:
    """What a result file holds: the conditions, the scores in percent, speed, versions and date."""
    facts = getattr(data, 'benchmark', None)
    names = data.vocabulary.class_names
    return {
        **conditions,
        'key': key_of(conditions),
        'weights': {'name': weights.name, **conditions['weights']},
        'data': {
            **conditions['data'],
            'root': str(data.root),
            'published_images': facts.num_images if facts else None,
            'complete': data.complete if isinstance(data, BenchmarkSegmentation) else None,
        },
        'miou': _percent(scores.mean_iou),
        'pixel_accuracy': _percent(scores.pixel_accuracy),
        'mean_accuracy': _percent(scores.mean_accuracy),
        'classes': {name: _percent(iou) for name, iou in zip(names, scores.iou.tolist(), strict=True)},
        'seconds': round(seconds, 2),
        'images_per_second': round(len(data) / seconds, 3) if seconds else None,
        'device': str(next(weights.clip.parameters()).device),
        'versions': {
            'clipdense': version('clipdense'),
            'torch': str(torch.__version__),
            'python': platform.python_version(),
        },
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
    }


def dataset_name(dataset: str) -> str:
    """What results call it: the name of a published dataset, or that of the folder."""
    place = find_folder(dataset)
    if place is None:
        return find_benchmark(dataset).name
    name = place.folder.resolve().name
    return f'{name}:{place.split}' if place.split else name


def _percent(share: float) -> float | None:
    return round(100 * share, 4) if share == share else None


def _as_it_is(item: Any) -> Any:
    return item
