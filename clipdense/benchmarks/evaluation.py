"""Evaluation of a segmentation method under a preset, for configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from clipdense.methods import get_method
from clipdense.registry import EVALUATIONS

from .build import make_subject
from .measure import Source, dataset_name, measure, preset_of


@EVALUATIONS.register_module()
class PresetSegmentation:
    """mIoU of a method on a dataset under a preset, the same as by ``clipdense reproduce``.

    The preset specifies class names, templates, windows, scale, thresholds and how position embeddings are
    resized.

    Args:
        method: a training-free method; or the one that the weights were trained for.
        dataset: a name in ``BENCHMARKS``, or a folder in PASCAL VOC format.
        root: folder of all published datasets.
        preset: a name in ``FAMILIES``; the method's own by default.
        options: by method, in addition to those of the preset: ``{'proxyclip': {'proxy': ...}}``.
        partial: allow an incomplete published dataset.
        limit: number of images; all by default.
        workers: processes that read.

    Raises:
        InputError: an unknown method, dataset or preset, or missing files.
    """

    def __init__(
        self,
        method: str,
        dataset: str,
        root: str | Path = 'data',
        preset: str | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        partial: bool = False,
        limit: int | None = None,
        workers: int = 0,
    ) -> None:
        self.method, self.workers = method, workers
        self.options = dict(options or {})
        self.preset = preset_of(method, dataset, preset, not get_method(method, 'segmentation').any_clip)
        self.name = dataset_name(dataset)
        self.data = Source(Path(root), partial=partial, limit=limit).open(dataset, self.preset.words)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """``DATASET/METHOD/miou``, ``pixel_accuracy`` and ``mean_accuracy``, as fractions."""
        subject = make_subject(model, '', self.options)
        scores, _ = measure(subject, self.method, self.data, self.preset, self.workers)
        return {
            f'{self.name}/{self.method}/{key}': value
            for key, value in (
                ('miou', scores.mean_iou),
                ('pixel_accuracy', scores.classes.pixel_accuracy),
                ('mean_accuracy', scores.classes.mean_accuracy),
            )
        }
