"""A training-free method under published settings, as a config asks for it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from clipdense.clip.model import CLIP
from clipdense.registry import EVALUATIONS

from .benchmark import Source, Weights, dataset_name, evaluate, preset_of


@EVALUATIONS.register_module()
class PresetSegmentation:
    """mIoU of a method on a dataset under a preset: the number that ``clipdense reproduce`` gives.

    The preset decides class names, templates, windows, scale, thresholds and how position embeddings are
    resized.

    Args:
        method: a training-free method.
        dataset: a name in ``BENCHMARKS``, or a folder in PASCAL VOC format.
        root: folder of all published datasets.
        preset: a name in ``FAMILIES``; the method's own by default.
        proxy: backbone of the method proxyclip, as ``DenseCLIP`` takes it.
        partial: take a published dataset that is not complete as it is.
        limit: number of images; all by default.
        workers: processes that read.

    Raises:
        InputError: an unknown method, dataset or preset, or files that are missing.
    """

    def __init__(
        self,
        method: str,
        dataset: str,
        root: str | Path = 'data',
        preset: str | None = None,
        proxy: nn.Module | dict | str | None = None,
        partial: bool = False,
        limit: int | None = None,
        workers: int = 0,
    ) -> None:
        self.method, self.proxy, self.workers = method, proxy, workers
        self.preset = preset_of(method, dataset, preset)
        self.name = dataset_name(dataset)
        self.data = Source(Path(root), partial=partial, limit=limit).open(dataset, self.preset.words)

    def __call__(self, clip: CLIP) -> dict[str, float]:
        """``DATASET/METHOD/miou``, ``pixel_accuracy`` and ``mean_accuracy``, shares of 1."""
        scores, _ = evaluate(Weights(clip, ''), self.method, self.data, self.preset, self.proxy, self.workers)
        return {
            f'{self.name}/{self.method}/{key}': value
            for key, value in (
                ('miou', scores.mean_iou),
                ('pixel_accuracy', scores.pixel_accuracy),
                ('mean_accuracy', scores.mean_accuracy),
            )
        }
