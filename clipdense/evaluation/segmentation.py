"""How well images are segmented: one evaluator for every way to ask.

Training hooks, ``clipdense test`` (through ``MeanIoU``), ``clipdense bench`` and ``reproduce`` all count
pixels with ``count_sample`` and score them with ``SegmentationScores``, so that one model under one protocol
has one number, to the last digit.

K: classes, (H, W): pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clipdense.registry import METRICS
from clipdense.structures import SegmentationSample
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.utils.errors import InputError
from clipdense.utils.modules import evaluating
from clipdense.utils.progress import track
from clipdense.vocab.vocabulary import Vocabulary

from .mean_iou import IouScores, confusion_matrix, foreground_iou, harmonic_mean, mean_iou, mean_of, percent

IGNORE_INDEX = 255
Labeler = Callable[[Tensor, SegmentationSample], Tensor | None]
"""An image (3, H, W) uint8 and its sample -> class indices (H, W); None leaves the image out."""


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of a dataset, as shares of 1; NaN where there is nothing to score.

    Args:
        confusion: (K, K) pixel counts, rows labels and columns predictions.
        vocabulary: the K classes.
        groups: class names by group, for an mIoU of each; by default base and novel of a vocabulary that has
            novel classes.

    Raises:
        ValueError: a matrix that does not fit the vocabulary.
    """

    confusion: Tensor
    vocabulary: Vocabulary
    groups: Mapping[str, Sequence[str]] | None = None

    def __post_init__(self) -> None:
        size = len(self.vocabulary)
        if self.confusion.shape != (size, size):
            raise ValueError(
                f'{size} classes need a {size} x {size} matrix, got {tuple(self.confusion.shape)}'
            )

    @cached_property
    def classes(self) -> IouScores:
        """IoU and accuracy of each class, and their means."""
        return mean_iou(self.confusion)

    @property
    def mean_iou(self) -> float:
        """mIoU over all classes that are labelled or predicted, the background included."""
        return self.classes.mean_iou

    @property
    def foreground(self) -> float:
        """mIoU over the classes that are labelled and not the background, see ``foreground_iou``."""
        return foreground_iou(self.confusion, self._background)

    @property
    def background(self) -> float:
        """IoU of the background; NaN where the vocabulary has none."""
        return float('nan') if self._background is None else self.classes.iou[self._background].item()

    @property
    def by_group(self) -> dict[str, float]:
        """mIoU of each group of classes."""
        groups = self.groups
        if groups is None:
            vocabulary = self.vocabulary
            groups = {'base': vocabulary.base, 'novel': tuple(vocabulary.novel)} if vocabulary.novel else {}
        ids = {group: [self.vocabulary.index(name) for name in names] for group, names in groups.items()}
        return {group: mean_of(self.classes.iou[members]) for group, members in ids.items()}

    def to_dict(self) -> dict[str, float]:
        """By name: ``mIoU``, accuracies, ``GROUP/mIoU``, and ``harmonic_mIoU`` of base and novel classes."""
        metrics = {
            'mIoU': self.mean_iou,
            'pixel_accuracy': self.classes.pixel_accuracy,
            'mean_accuracy': self.classes.mean_accuracy,
            'classes_counted': float(self.classes.counted),
        }
        by_group = self.by_group
        metrics |= {f'{name}/mIoU': value for name, value in by_group.items()}
        if {'base', 'novel'} <= by_group.keys():
            metrics['harmonic_mIoU'] = harmonic_mean(by_group['base'], by_group['novel'])
        return metrics

    def table(self) -> str:
        """One class a line, in percent."""
        names, scores = self.vocabulary.class_names, self.classes
        width = max(len('class'), *map(len, names))
        lines = [f'{"class":<{width}}  {"IoU":>6}  {"found":>6}']
        for name, iou, accuracy in zip(names, scores.iou, scores.accuracy, strict=True):
            lines.append(f'{name:<{width}}  {percent(iou.item())}  {percent(accuracy.item())}')
        absent = len(names) - scores.counted
        note = f'; {absent} of {len(names)} are in no label and no prediction (n/a)' if absent else ''
        mean = f'{percent(scores.mean_iou)}  {percent(scores.mean_accuracy)}'
        return '\n'.join([*lines, f'{"mean":<{width}}  {mean}  over {scores.counted} classes{note}'])

    @property
    def _background(self) -> int | None:
        name = self.vocabulary.background
        return None if name is None else self.vocabulary.index(name)


def count_sample(sample: SegmentationSample, num_classes: int, ignore_index: int | None) -> Tensor:
    """Pixel counts (K, K) of a sample with mask and prediction, rows labels and columns predictions.

    Raises:
        InputError: a sample without them, or as ``confusion_matrix``, naming the image.
    """
    name = sample.image_path or 'an image'
    if sample.mask is None or sample.prediction is None:
        missing = 'mask' if sample.mask is None else 'prediction'
        raise InputError(f'{name} has no {missing}: mIoU needs labelled and segmented images')
    try:
        return confusion_matrix(sample.prediction, sample.mask, num_classes, ignore_index)
    except InputError as error:
        raise InputError(f'{name}: {error}') from error


class SegmentationEvaluator:
    """Segments a dataset and scores the result.

    Args:
        dataset: items ``{'images', 'samples'}``: (3, H, W) uint8 and a ``SegmentationSample`` with a mask.
        vocabulary: the classes that masks count in; the dataset's by default.
        ignore_index: label of pixels that do not count; the dataset's by default, 255 where it names none.
        workers: processes that read images.
        title: of the progress bar.
    """

    def __init__(
        self,
        dataset: Any,
        vocabulary: Vocabulary | None = None,
        ignore_index: int | None = None,
        workers: int = 0,
        title: str = 'segmentation',
    ) -> None:
        self.dataset, self.workers, self.title = dataset, workers, title
        self.vocabulary: Vocabulary = dataset.vocabulary if vocabulary is None else vocabulary
        own = getattr(dataset, 'ignore_index', IGNORE_INDEX)
        self.ignore_index = own if ignore_index is None else ignore_index

    def __call__(self, model: SegmentationModel) -> SegmentationScores:
        """Scores of a model whose vocabulary is set; its mode is kept.

        Raises:
            InputError: no vocabulary yet, a broken image or mask, or labels that are no class.
        """
        return self.compare({'': labeler(model)}, model)['']

    def compare(
        self, labelers: Mapping[str, Labeler], model: nn.Module | None = None
    ) -> dict[str, SegmentationScores]:
        """Scores of several ways to label the same images, which are read once.

        Args:
            labelers: by name; for each image they are called in this order.
            model: is in evaluation mode meanwhile.

        Raises:
            InputError: a broken image or mask, or labels that are no class.
        """
        size = len(self.vocabulary)
        counts = {name: torch.zeros(size, size, dtype=torch.int64) for name in labelers}
        items = DataLoader(
            self.dataset,
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # the global one is the training's
        )
        with evaluating(nn.Module() if model is None else model):
            for item in track(items, self.title, total=len(self.dataset)):
                sample: SegmentationSample = item['samples']
                for name, label in labelers.items():
                    found = label(item['images'], sample)
                    if found is not None:
                        labelled = SegmentationSample(
                            sample.image_path, sample.size, sample.mask, found.cpu()
                        )
                        counts[name] += count_sample(labelled, size, self.ignore_index)
        return {name: SegmentationScores(matrix, self.vocabulary) for name, matrix in counts.items()}


def labeler(model: SegmentationModel) -> Labeler:
    """A model as the test loop asks it: one image, one prediction."""

    def label(image: Tensor, sample: SegmentationSample) -> Tensor:
        (found,) = model.test_step({'images': [image], 'samples': [sample]})
        return found.prediction

    return label


def chance_labeler(num_classes: int, seed: int = 0) -> Labeler:
    """Each pixel drawn from all classes alike: what a model that knows nothing scores."""
    generator = torch.Generator().manual_seed(seed)
    return lambda image, sample: torch.randint(num_classes, sample.size, generator=generator)


@METRICS.register_module()
class MeanIoU(BaseMetric):
    """``SegmentationScores`` for MMEngine's test loop.

    Every process keeps the few cells of each image's matrix, not one sum, so that images that a
    distributed sampler repeats for padding are counted once.

    Args:
        ignore_index: label of pixels that do not count.
        vocabulary: the classes; the dataset's by default.
        groups: see ``SegmentationScores``.
        prefix: before every name, as in ``val_unseen/mIoU``.
        collect_device: 'cpu' or 'gpu', where results of several processes meet.

    Attributes:
        evaluated: the last evaluation's scores; None before.
    """

    default_prefix = ''  # none is wanted; without it MMEngine warns

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        vocabulary: Vocabulary | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        prefix: str | None = None,
        collect_device: str = 'cpu',
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ignore_index = ignore_index
        self.evaluated: SegmentationScores | None = None
        self._vocabulary = vocabulary
        self._groups = groups

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes that indices stand for."""
        vocabulary = self._vocabulary or (self.dataset_meta or {}).get('vocabulary')
        if vocabulary is None:
            raise InputError('MeanIoU needs a vocabulary, or a dataset whose metainfo has one')
        return vocabulary

    @property
    def scores(self) -> IouScores | None:
        """The last evaluation's, with the values of each class; None before."""
        return None if self.evaluated is None else self.evaluated.classes

    def process(self, data_batch: Any, data_samples: Sequence[SegmentationSample]) -> None:
        """Count a batch.

        Args:
            data_batch: not used.
            data_samples: with mask and prediction.

        Raises:
            InputError: as ``count_sample``.
        """
        size = len(self.vocabulary)
        for sample in data_samples:
            counts = count_sample(sample, size, self.ignore_index).flatten().cpu()
            cells = counts.nonzero().flatten()
            self.results.append((cells, counts[cells]))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Add the images up and score them; the table of classes goes to the log."""
        size = len(self.vocabulary)
        total = torch.zeros(size * size, dtype=torch.int64)
        for cells, counts in results:
            total.index_add_(0, cells, counts)
        self.evaluated = SegmentationScores(total.view(size, size), self.vocabulary, self._groups)
        print_log('\n' + self.table(), logger='current')
        return self.evaluated.to_dict()

    def table(self) -> str:
        """The last evaluation, one class a line."""
        return 'not evaluated yet' if self.evaluated is None else self.evaluated.table()


def _unchanged(item: Any) -> Any:
    return item
