"""Evaluation of segmentation.

Training hooks, ``clipdense test`` (through ``MeanIoU``), ``clipdense bench`` and ``reproduce`` all count
pixels with ``count_sample`` and score them with ``SegmentationScores``, so a model under a
protocol has the same score in all of them.

K: classes, (H, W): pixels.
"""

from __future__ import annotations

import warnings
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
from clipdense.utils.wording import counted
from clipdense.vocab.vocabulary import Vocabulary

from .mean_iou import IouScores, confusion_matrix, foreground_iou, harmonic_mean, mean_iou, mean_of, percent

IGNORE_INDEX = 255
Labeler = Callable[[Tensor, SegmentationSample], Tensor | None]
"""An image (3, H, W) uint8 and its sample -> class indices (H, W); None skips the image."""


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of a dataset, as fractions; NaN if undefined.

    Args:
        confusion: (K, K) pixel counts, rows labels and columns predictions.
        vocabulary: the K classes.
        groups: class names by group, for an mIoU of each; by default base and novel, if the vocabulary has
            novel classes.

    Raises:
        ValueError: the matrix does not match the vocabulary.
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
        """mIoU over all classes that are labeled or predicted, including the background."""
        return self.classes.mean_iou

    @property
    def foreground(self) -> float:
        """mIoU over the labeled classes except the background, see ``foreground_iou``."""
        return foreground_iou(self.confusion, self._background)

    @property
    def background(self) -> float:
        """IoU of the background; NaN if the vocabulary has none."""
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
        """Scores by name: ``mIoU``, accuracies, ``GROUP/mIoU``, ``harmonic_mIoU`` of base and novel."""
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
        """A table with one class per line, in percent."""
        names, scores = self.vocabulary.class_names, self.classes
        width = max(len('class'), *map(len, names))
        lines = [f'{"class":<{width}}  {"IoU":>6}  {"found":>6}']
        for name, iou, accuracy in zip(names, scores.iou, scores.accuracy, strict=True):
            lines.append(f'{name:<{width}}  {percent(iou.item())}  {percent(accuracy.item())}')
        absent = len(names) - scores.counted
        note = f'; {absent} of {len(names)} are in no label and no prediction (n/a)' if absent else ''
        mean = f'{percent(scores.mean_iou)}  {percent(scores.mean_accuracy)}'
        return '\n'.join([*lines, f'{"mean":<{width}}  {mean}  over {scores.counted} classes{note}'])

    def notes(self, absent: bool = True) -> list[str]:
        """What the scores hide.

        Args:
            absent: name the classes that are predicted but in no mask.

        Returns:
            A line each, about masks without labeled pixels, with one class, and such classes.
        """
        names = self.vocabulary.class_names
        labeled = self.confusion.sum(1) > 0
        only = [name for name, there in zip(names, labeled.tolist(), strict=True) if there]
        wrong = ((self.confusion.sum(0) > 0) & ~labeled).tolist()
        extra = [name for name, there in zip(names, wrong, strict=True) if there]
        found = []
        if not only:
            found.append('no pixel of the masks is labeled with a class of the vocabulary: there is no score')
        elif len(only) == 1 and len(names) > 1:
            found.append(
                f'only one class, {only[0]!r}, is labeled in the masks; the other {len(names) - 1} of the '
                'vocabulary are in no mask, so that the mIoU does not measure them'
            )
        elif len(names) == 1:
            found.append(
                f'the vocabulary has one class, {only[0]!r}, so that there is nothing to confuse it with'
            )
        if absent and only and extra:
            found.append(
                f'predicted but in no mask, with an IoU of 0 in the mIoU: {counted(len(extra), "class")}, '
                f'{", ".join(extra[:10])}{", ..." if len(extra) > 10 else ""}'
            )
        return found

    @property
    def _background(self) -> int | None:
        name = self.vocabulary.background
        return None if name is None else self.vocabulary.index(name)


def count_sample(sample: SegmentationSample, num_classes: int, ignore_index: int | None) -> Tensor:
    """Pixel counts (K, K) of a sample with mask and prediction, rows labels and columns predictions.

    Raises:
        InputError: a sample without them, or as ``confusion_matrix``; the message names the image.
    """
    name = sample.image_path or 'an image'
    if sample.mask is None or sample.prediction is None:
        missing = 'mask' if sample.mask is None else 'prediction'
        raise InputError(f'{name} has no {missing}; mIoU needs mask and prediction of every image')
    try:
        return confusion_matrix(sample.prediction, sample.mask, num_classes, ignore_index)
    except InputError as error:
        raise InputError(f'{name}: {error}') from error


class SegmentationEvaluator:
    """Segments a dataset and scores the result.

    Args:
        dataset: items ``{'images', 'samples'}``: (3, H, W) uint8 and a ``SegmentationSample`` with a mask.
        vocabulary: classes of the masks; the dataset's by default.
        ignore_index: label of pixels that do not count; the dataset's by default, or 255.
        workers: processes that read images.
        title: of the progress bar.
        distractors: whether the vocabulary has classes on purpose that are in no mask; otherwise a line says
            which of them the model predicts.
    """

    def __init__(
        self,
        dataset: Any,
        vocabulary: Vocabulary | None = None,
        ignore_index: int | None = None,
        workers: int = 0,
        title: str = 'segmentation',
        distractors: bool = False,
    ) -> None:
        self.dataset, self.workers, self.title = dataset, workers, title
        self.distractors = distractors
        self.vocabulary: Vocabulary = dataset.vocabulary if vocabulary is None else vocabulary
        own = getattr(dataset, 'ignore_index', IGNORE_INDEX)
        self.ignore_index = own if ignore_index is None else ignore_index

    def __call__(self, model: SegmentationModel) -> SegmentationScores:
        """Scores of a model whose vocabulary is set; its mode is kept.

        Raises:
            InputError: no vocabulary is set, an image or mask is damaged, or a label is not a class.
        """
        return self.compare({'': labeler(model)}, model)['']

    def compare(
        self, labelers: Mapping[str, Labeler], model: nn.Module | None = None
    ) -> dict[str, SegmentationScores]:
        """Scores of several labelers on the same images, which are read once.

        Args:
            labelers: by name; called in this order for each image.
            model: set to evaluation mode meanwhile.

        Raises:
            InputError: an image or mask is damaged, or a label is not a class.
        """
        size = len(self.vocabulary)
        counts = {name: torch.zeros(size, size, dtype=torch.int64) for name in labelers}
        items = DataLoader(
            self.dataset,
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # does not advance the global generator of training
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
        scores = {name: SegmentationScores(matrix, self.vocabulary) for name, matrix in counts.items()}
        first = next(iter(scores.values()))  # the others, such as chance, are for comparison
        for note in first.notes(absent=not self.distractors):
            warnings.warn(note, stacklevel=2)
        return scores


def labeler(model: SegmentationModel) -> Labeler:
    """A labeler that runs a model as the test loop does, one image at a time."""

    def label(image: Tensor, sample: SegmentationSample) -> Tensor:
        (found,) = model.test_step({'images': [image], 'samples': [sample]})
        return found.prediction

    return label


def chance_labeler(num_classes: int, seed: int = 0) -> Labeler:
    """A labeler that draws each pixel uniformly from all classes, for the chance level."""
    generator = torch.Generator().manual_seed(seed)
    return lambda image, sample: torch.randint(num_classes, sample.size, generator=generator)


@METRICS.register_module()
class MeanIoU(BaseMetric):
    """``SegmentationScores`` for MMEngine's test loop.

    Every process keeps the nonzero counts of each image, not their sum, so that images that a distributed
    sampler repeats for padding are counted once.

    Args:
        ignore_index: label of pixels that do not count.
        vocabulary: the classes; the dataset's by default.
        groups: see ``SegmentationScores``.
        prefix: of every name, as in ``val_unseen/mIoU``.
        collect_device: 'cpu' or 'gpu', where results of several processes are gathered.

    Attributes:
        evaluated: scores of the last evaluation; None before.
    """

    default_prefix = ''  # empty: MMEngine warns without it

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
        """The classes."""
        vocabulary = self._vocabulary or (self.dataset_meta or {}).get('vocabulary')
        if vocabulary is None:
            raise InputError('MeanIoU needs a vocabulary, or a dataset whose metainfo has one')
        return vocabulary

    @property
    def scores(self) -> IouScores | None:
        """Scores of the last evaluation, with the values of each class; None before."""
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
        """Sum the counts of images and score them; the table of classes is logged."""
        size = len(self.vocabulary)
        total = torch.zeros(size * size, dtype=torch.int64)
        for cells, counts in results:
            total.index_add_(0, cells, counts)
        self.evaluated = SegmentationScores(total.view(size, size), self.vocabulary, self._groups)
        print_log('\n' + self.table(), logger='current')
        for note in self.evaluated.notes():
            warnings.warn(note, stacklevel=2)
        return self.evaluated.to_dict()

    def table(self) -> str:
        """Table of the last evaluation, one class per line."""
        return 'not evaluated yet' if self.evaluated is None else self.evaluated.table()


def _unchanged(item: Any) -> Any:
    return item
