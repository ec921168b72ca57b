"""Training splits of the published datasets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError, nearest
from clipdense.vocab.vocabulary import Vocabulary

from . import BenchmarkSegmentation, find_benchmark

_TRAINING: dict[str, dict[str, Any]] = {  # what differs from the validation split
    'ade20k': {'images': 'images/training', 'masks': 'annotations/training', 'num_images': 20_210},
    'cityscapes': {'images': 'leftImg8bit/train', 'masks': 'gtFine/train', 'num_images': 2975},
    'coco_stuff': {'images': 'images/train2017', 'masks': 'annotations/train2017', 'num_images': 118_287},
    'voc21': {'split_list': 'ImageSets/Segmentation/train.txt', 'num_images': 1464},
}


@DATASETS.register_module()
class BenchmarkTraining(BenchmarkSegmentation):
    """The training split of a published dataset.

    Args:
        benchmark: 'ade20k', 'cityscapes', 'coco_stuff' or 'voc21'.
        root, vocabulary, partial, limit: as in ``BenchmarkSegmentation``.

    Raises:
        InputError: another dataset, or files that are missing.
    """

    def __init__(
        self,
        benchmark: str,
        root: str | Path,
        vocabulary: Vocabulary | str | None = None,
        partial: bool = False,
        limit: int | None = None,
    ) -> None:
        if benchmark not in _TRAINING:
            hint = nearest(benchmark, _TRAINING)
            raise InputError(
                f'no training split for dataset {benchmark!r}; use {", ".join(_TRAINING)}.{hint}'
            )
        facts = replace(find_benchmark(benchmark), **_TRAINING[benchmark])
        super().__init__(facts, root, vocabulary, partial, limit)
