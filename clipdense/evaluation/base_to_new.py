"""Accuracy of classifiers that learned from a few images: on their classes, on new ones, on other datasets.

B: images, K: classes.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from clipdense.data.batches import collate
from clipdense.data.classification.few_shot import FewShotImages
from clipdense.data.classification.splits import has_parts
from clipdense.data.transforms import CenterCrop
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.utils.errors import InputError
from clipdense.utils.modules import evaluating
from clipdense.utils.progress import track
from clipdense.vocab.names import normalize, places

from .classification import accuracy, label_ranks


class LabelModel(Protocol):
    """A classifier whose class names can be changed: images -> logits (B, K)."""

    clip: Any
    data_preprocessor: Any

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K classes."""

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the classes of subsequent calls."""

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized -> (B, K)."""


@dataclass(frozen=True)
class BaseToNew:
    """Accuracy among the classes that were trained on, and among the others.

    Args:
        base: a fraction of 0 to 1.
        new: the same; None if there are no new classes.

    Raises:
        InputError: another number.

    Source: CoCoOp (arXiv 2203.05557), section 4.1.
    """

    base: float
    new: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name == 'new' and value is None:
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
                raise InputError(f'{name} must be an accuracy of 0 to 1, got {value!r}')

    @property
    def harmonic_mean(self) -> float:
        """2 base new / (base + new); 0 if one of them is, ``base`` without new classes."""
        if self.new is None:
            return self.base
        total = self.base + self.new
        return 2 * self.base * self.new / total if total else 0.0


@dataclass(frozen=True)
class Spread:
    """A number over several seeds.

    Args:
        values: one for each seed.

    Raises:
        InputError: no value, or one that is not finite.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or not all(isfinite(value) for value in self.values):
            raise InputError(f'needs one finite number for each seed, got {self.values!r:.100}')

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """The standard deviation of a sample (n - 1); 0 for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        """In percent: '71.9', or '71.9 +- 0.4' for several seeds."""
        return f'{100 * self.mean:.1f}' + (f' ± {100 * self.std:.1f}' if len(self.values) > 1 else '')


@dataclass(frozen=True)
class FewShotRow:
    """A method with a number of shots, over several seeds.

    Args:
        method: its name.
        shots: images of each base class; 0 for zero-shot.
        results: one for each seed.

    Raises:
        InputError: no name, shots that are not a whole number, or no results.
    """

    method: str
    shots: int
    results: tuple[BaseToNew, ...]

    def __post_init__(self) -> None:
        if not self.method or not isinstance(self.shots, int) or self.shots < 0 or not self.results:
            raise InputError(
                f'a row needs a method, shots of at least 0 and a result for each seed, got {self.method!r}, '
                f'{self.shots!r} and {len(self.results)} results'
            )

    @property
    def base(self) -> Spread:
        """Accuracy on base classes."""
        return Spread(tuple(one.base for one in self.results))

    @property
    def new(self) -> Spread | None:
        """Accuracy on new classes; None if a result has none."""
        values = [one.new for one in self.results if one.new is not None]
        return Spread(tuple(values)) if len(values) == len(self.results) else None

    @property
    def harmonic_mean(self) -> float:
        """Of the means over the seeds, as the papers have it."""
        return BaseToNew(self.base.mean, None if self.new is None else self.new.mean).harmonic_mean

    @property
    def harmonic_means(self) -> Spread:
        """The harmonic mean of each seed."""
        return Spread(tuple(one.harmonic_mean for one in self.results))


@dataclass(frozen=True)
class FewShotTable:
    """Rows of methods and shots.

    Args:
        rows: in the order in which they are shown.

    Raises:
        InputError: a method twice with the same shots.
    """

    rows: tuple[FewShotRow, ...]

    def __post_init__(self) -> None:
        keys = [(row.method, row.shots) for row in self.rows]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            raise InputError(f'the table has {twice[0]!r} with {twice[1]} shots twice')

    def markdown(self) -> str:
        """Percent, mean and deviation over the seeds; the harmonic mean is that of the means."""
        lines = ['| method | shots | base | new | harmonic mean | seeds |', '|---|---|---|---|---|---|']
        for row in self.rows:
            spread = f' ± {100 * row.harmonic_means.std:.1f}' if len(row.results) > 1 else ''
            mean = f'{100 * row.harmonic_mean:.1f}{spread}'
            cells = [row.method, row.shots or '-', row.base, row.new or '-', mean, len(row.results)]
            lines.append(f'| {" | ".join(map(str, cells))} |')
        return '\n'.join(lines)

    def to_json(self) -> str:
        """All numbers, by seed."""
        return json.dumps([asdict(row) for row in self.rows], indent=1)

    @classmethod
    def from_json(cls, text: str) -> FewShotTable:
        """What ``to_json`` wrote.

        Raises:
            InputError: something else.
        """
        try:
            rows = [
                FewShotRow(
                    row['method'],
                    row['shots'],
                    tuple(BaseToNew(one['base'], one['new']) for one in row['results']),
                )
                for row in json.loads(text)
            ]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f'not a table of few-shot results: {error!r}') from error
        return cls(tuple(rows))


@EVALUATIONS.register_module()
class ClassifierAccuracy:
    """Accuracy of a trained classifier on several sets of images, each among its own class names.

    With parts ``base`` and ``new`` it is the base-to-new protocol; with parts of other datasets it is
    cross-dataset transfer, or with ``same_classes`` domain generalization.

    Args:
        parts: labeled datasets with ``class_names`` by name; their configs; or folders and split files, whose
            test images are used, and all images of a folder without parts.
        name: prefix of the names of the results.
        batch_size: images per batch.
        num_workers: processes that read images.
        same_classes: refuse parts with classes that the model was not trained on.

    Raises:
        InputError: no parts, or parts that cannot be read.
    """

    whole_model = True  # called with the model instead of its CLIP

    def __init__(
        self,
        parts: Mapping[str, Any],
        name: str = 'test',
        batch_size: int = 64,
        num_workers: int = 0,
        same_classes: bool = False,
    ) -> None:
        if not parts:
            raise InputError('ClassifierAccuracy needs parts, such as dict(test=FOLDER)')
        self.parts = {key: _dataset(value) for key, value in parts.items() if value is not None}
        self.name, self.batch_size, self.num_workers = name, batch_size, num_workers
        self.same_classes = same_classes

    def __call__(self, model: LabelModel) -> dict[str, float]:
        """Evaluate a model; its classes and mode are restored.

        Returns:
            ``NAME/PART/top1``, ``/chance`` and ``/count`` (images); ``NAME/harmonic_mean`` of ``base`` and
            ``new``; ``NAME/mean`` over several other parts.

        Raises:
            InputError: classes that the model cannot have, or no image that can be read.
        """
        trained = tuple(model.class_names)
        report: dict[str, float] = {}
        try:
            for part, dataset in self.parts.items():
                if self.same_classes:
                    _check_classes(part, dataset.class_names, trained)
                model.set_classes(dataset.class_names)
                ranks = self._ranks(model, dataset, part)
                report |= {
                    f'{part}/top1': accuracy(ranks, 1),
                    f'{part}/chance': 1 / len(dataset.class_names),
                    f'{part}/count': len(ranks),
                }
        finally:
            if trained:
                model.set_classes(trained)
        return {f'{self.name}/{key}': value for key, value in (report | _summary(report, self.parts)).items()}

    def check(self, model: Any) -> None:
        """Refuse a model that cannot have the classes of the parts, before it is trained for them.

        Raises:
            InputError: naming the part and its classes.
        """
        for part, dataset in self.parts.items():
            if self.same_classes:
                _check_classes(part, dataset.class_names, tuple(model.class_names))
            if hasattr(model, 'check_classes'):
                try:
                    model.check_classes(dataset.class_names)
                except InputError as error:
                    raise InputError(f'the model cannot be tested on {self.name}/{part}: {error}') from error

    def _ranks(self, model: Any, dataset: Any, part: str) -> Tensor:
        """Number of classes that score at least as high as the true one, for each readable image."""
        crop = CenterCrop.of(model.clip.preprocess)
        loader = DataLoader(
            _Cropped(dataset, crop), self.batch_size, num_workers=self.num_workers, collate_fn=collate
        )
        ranks: list[Tensor] = []
        with evaluating(model):
            for batch in track((batch for batch in loader), f'{self.name}/{part}', len(loader)):
                known = batch['labels'] >= 0
                if not known.any():
                    continue
                images = model.data_preprocessor({'images': batch['images'][known]})['images']
                ranks.append(label_ranks(model(images).float().cpu(), batch['labels'][known]))
        if not ranks:
            raise InputError(f'{self.name}/{part}: the dataset has no images that can be read')
        return torch.cat(ranks)


class _Cropped(torch.utils.data.Dataset):
    """A labeled dataset whose images are cropped as the model expects, where it has no transform."""

    def __init__(self, dataset: Any, crop: CenterCrop) -> None:
        self.dataset = dataset
        self.crop = crop if getattr(dataset, 'transform', None) is None else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        return item if self.crop is None else {**item, 'images': self.crop(item['images'])}


def _dataset(data: Any) -> Any:
    if isinstance(data, str | os.PathLike):
        return FewShotImages(data, split='test' if has_parts(data) else 'all')
    return build(data, DATASETS)


def _check_classes(part: str, names: Sequence[str], trained: Sequence[str]) -> None:
    known = places(trained)
    other = [name for name in names if normalize(name) not in known]
    if other:
        raise InputError(
            f'{part} has {len(other)} classes that the model was not trained on, such as {other[0]!r}: give '
            'class_names that agree, or remove same_classes'
        )


def _summary(report: Mapping[str, float], parts: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    if {'base', 'new'} <= set(parts):
        found['harmonic_mean'] = BaseToNew(report['base/top1'], report['new/top1']).harmonic_mean
    others = [report[f'{part}/top1'] for part in parts if part not in ('base', 'new')]
    if len(others) > 1:
        found['mean'] = statistics.fmean(others)
    return found
