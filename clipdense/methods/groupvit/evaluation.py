"""How well a GroupViT segments while it is pre-trained, and what its errors are.  K: classes, G: groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from clipdense.clip.text_embeddings import embed_vocabulary
from clipdense.evaluation.mean_iou import confusion_matrix, mean_iou
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.utils.progress import track

from .model import GroupVit
from .oracle import oracle_labels
from .segmenter import GroupVitSegmenter, pixel_groups
from .thresholds import automatic_threshold, learn_thresholds, resize_labels

Threshold = float | Mapping[str, float] | Literal['shared', 'by class', 'automatic'] | None


@EVALUATIONS.register_module()
class GroupSegmentation:
    """mIoU on a labelled dataset, with what its errors are made of.

    ``oracle`` gives each group its best class by the labels, which leaves the errors of the masks; ``floor``
    does the same with the groups of the image before, which have likely sizes and places but know nothing;
    ``chance`` draws each pixel's class.

    Args:
        dataset: items ``{'images', 'samples'}`` and a ``vocabulary``, or its config.
        threshold: see ``GroupVitSegmenter``; or how to find it: 'shared' or 'by class' from the labels of
            ``tuning``, 'automatic' from its images alone.
        tuning: another dataset, or its config; its classes may be others (base classes for novel ones), and
            thresholds 'by class' then serve the classes of the same name.
        slide: see ``SegmentationModel``.
        templates: prompt templates.
        name: first part of the names of the results.
        ignore_index: label that is not counted.

    Raises:
        InputError: a threshold that has to be found, without ``tuning``.
    """

    def __init__(
        self,
        dataset: Any,
        threshold: Threshold = 0.95,
        tuning: Any = None,
        slide: Slide | dict | None = None,
        templates: str | Sequence[str] = 'simple',
        name: str = 'segmentation',
        ignore_index: int = 255,
    ) -> None:
        self.dataset = build(dataset, DATASETS)
        self.tuning: Any = None if tuning is None else build(tuning, DATASETS)
        if isinstance(threshold, str) and threshold not in ('shared', 'by class', 'automatic'):
            raise InputError(f"threshold is a number, 'shared', 'by class' or 'automatic', not {threshold!r}")
        if isinstance(threshold, str) and self.tuning is None:
            raise InputError(f'threshold {threshold!r} is found on another dataset: give tuning=...')
        self.threshold, self.slide, self.templates = threshold, slide, templates
        self.name, self.ignore_index = name, ignore_index

    def __call__(self, clip: GroupVit) -> dict[str, float]:
        """``miou``, ``foreground``, ``background``, ``oracle``, ``floor``, ``chance``, ``threshold``."""
        threshold = self._find(clip)
        model = self._model(clip, threshold, self.dataset.vocabulary)
        classes = model.num_classes
        kinds = ('found', 'oracle', 'floor', 'chance')
        counts = {kind: torch.zeros(classes, classes, dtype=torch.int64) for kind in kinds}
        dice = torch.Generator().manual_seed(0)
        other = None
        for index in track(range(len(self.dataset)), self.name):
            item = self.dataset[index]
            mask = item['samples'].mask
            image = model.data_preprocessor.normalise(item['images'].to(model.queries.device))
            owner, groups = self._groups(clip, model, image, mask)
            labels = {
                'found': model.segment(image, item['samples'].size).classes.cpu(),
                'oracle': oracle_labels(owner, mask, groups, classes, self.ignore_index),
                'chance': torch.randint(classes, mask.shape, generator=dice),
            }
            if other is not None:
                strange = resize_labels(other, (mask.shape[0], mask.shape[1]))
                labels['floor'] = oracle_labels(strange, mask, groups, classes, self.ignore_index)
            for kind, found in labels.items():
                counts[kind] += confusion_matrix(found, mask, classes, self.ignore_index)
            other = owner
        return self._report(counts, model, threshold)

    def _report(
        self, counts: dict[str, Tensor], model: GroupVitSegmenter, threshold: Any
    ) -> dict[str, float]:
        iou = mean_iou(counts['found']).iou.tolist()
        front = [x for index, x in enumerate(iou) if index != model.background_index and x == x]
        report = {'miou': mean_iou(counts['found']).mean_iou}
        report['foreground'] = sum(front) / len(front) if front else float('nan')
        if model.background_index is not None:
            report['background'] = iou[model.background_index]
        report |= {kind: mean_iou(counts[kind]).mean_iou for kind in ('oracle', 'floor', 'chance')}
        if threshold is not None:
            report['threshold'] = threshold.get('', 0.0) if isinstance(threshold, Mapping) else threshold
        return {f'{self.name}/{key}': value for key, value in report.items()}

    def _groups(
        self, clip: GroupVit, model: GroupVitSegmenter, image: Tensor, mask: Tensor
    ) -> tuple[Tensor, int]:
        """Each pixel's group (H, W) with the whole image in one window, and G."""
        size = model.slide.resized((image.shape[-2], image.shape[-1]), model.patch_size)
        image = torch.nn.functional.interpolate(image[None], size, mode='bilinear', antialias=True)
        embedded = clip.encode_groups(image)
        return pixel_groups(embedded, (mask.shape[0], mask.shape[1]))[0].cpu(), embedded.groups.shape[1]

    def _find(self, clip: GroupVit) -> float | Mapping[str, float] | None:
        """The threshold, found on ``tuning`` where it has to be."""
        if not isinstance(self.threshold, str):
            return self.threshold
        model = self._model(clip, 0.0, self.tuning.vocabulary)
        if self.threshold == 'automatic':
            images = (self.tuning[index]['images'] for index in range(len(self.tuning)))
            return automatic_threshold(model, images)
        by_class = self.threshold == 'by class'
        return learn_thresholds(model, self.tuning, by_class, ignore_index=self.ignore_index)

    def _model(self, clip: GroupVit, threshold: Any, vocabulary: Any) -> GroupVitSegmenter:
        model = GroupVitSegmenter(clip, self.slide, threshold).to(next(clip.parameters()).device).eval()
        model.set_vocabulary(vocabulary, embed_vocabulary(clip, vocabulary, self.templates))
        return model
