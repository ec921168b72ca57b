"""Several detection datasets in one training, each with a weight."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from mmengine.config import ConfigDict
from torch.utils.data import ConcatDataset

from clipdense.registry import DATASETS, build
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary


@DATASETS.register_module()
class DetectionMixture(ConcatDataset):
    """Images of several datasets: with classes, with captions, with pseudo-labels.

    Of a dataset of n images, an epoch has weight * n: each image so many times, or with a weight below 1 a
    part of them, another one in each epoch.

    Args:
        datasets: datasets or configs, by name; those without a seed get that of the mixture.
        weights: by name; 1 for others.
        seed: of random transforms.

    Attributes:
        vocabulary: of the datasets with classes; None if there are none.

    Raises:
        InputError: no datasets, weights of unknown names, not above 0 or too small for one image, or datasets
            with different classes.
    """

    def __init__(
        self, datasets: Mapping[str, Any], weights: Mapping[str, float] | None = None, seed: int = 0
    ) -> None:
        if not isinstance(datasets, Mapping) or not datasets:
            raise InputError(f'datasets must have names, such as boxes=dict(...), got {datasets!r:.60}')
        weights = dict(weights or {})
        if unknown := sorted(set(weights) - set(datasets)):
            raise InputError(
                f'weights of datasets that are not in the mixture: {unknown}; it has {[*datasets]}'
            )
        parts = {name: _part(one, seed) for name, one in datasets.items() if one is not None}
        super().__init__(list(parts.values()))
        self.parts: list[Any] = list(parts.values())
        self.vocabulary = _common(parts)
        self.has_texts = self.vocabulary is None
        self.counts = [_count(name, len(one), weights.get(name, 1.0)) for name, one in parts.items()]

    @property
    def metainfo(self) -> dict[str, Any]:
        """The ``dataset_meta`` that MMEngine passes to metrics."""
        return {} if self.vocabulary is None else {'vocabulary': self.vocabulary}

    def set_epoch(self, epoch: int) -> None:
        """Select the random transforms of this epoch, and the images of datasets with a weight below 1."""
        for one in self.parts:
            one.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample of one of the datasets."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        for one, count in zip(self.parts, self.counts, strict=True):
            if index < count:
                return one[(index + one.epoch * count) % len(one)]
            index -= count
        raise AssertionError


def _part(one: Any, seed: int) -> Any:
    return build({'seed': seed, **one} if isinstance(one, dict | ConfigDict) else one, DATASETS)


def _common(parts: Mapping[str, Any]) -> Vocabulary | None:
    """The vocabulary of all datasets that have one."""
    known = {name: one.vocabulary for name, one in parts.items() if one.vocabulary is not None}
    names = list(known)
    for name in names[1:]:
        if known[name] != known[names[0]]:
            raise InputError(
                f'the datasets {names[0]!r} and {name!r} of a mixture have different classes: give both the '
                'same classes=[...]'
            )
    return known[names[0]] if names else None


def _count(name: str, size: int, weight: Any) -> int:
    """Images of a dataset in an epoch."""
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not isfinite(weight) or weight <= 0 or round(weight * size) < 1:
        raise InputError(
            f'the weight of {name!r} must be a number above 0 that leaves at least one of its {size} images, '
            f'got {weight!r}'
        )
    return round(weight * size)
