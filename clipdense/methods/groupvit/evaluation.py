"""Segmentation of a GroupViT as an evaluation during pre-training.  K: classes, G: groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.class_embeddings import class_embedder
from clipdense.evaluation.segmentation import SegmentationEvaluator, chance_labeler, labeler
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.structures import SegmentationSample
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError

from .model import GroupVit
from .oracle import oracle_labels
from .segmenter import GroupVitSegmenter, pixel_groups
from .thresholds import automatic_threshold, learn_thresholds, resize_labels

Threshold = float | Mapping[str, float] | Literal['shared', 'by class', 'automatic'] | None


@EVALUATIONS.register_module()
class GroupSegmentation:
    """mIoU on a labeled dataset, with an oracle and baselines.

    ``oracle`` assigns each group its best class by the labels, which leaves the errors of the masks;
    ``floor`` does the same with the groups of the previous image, a baseline for the oracle; ``chance`` draws
    the class of each pixel at random.

    Args:
        dataset: items ``{'images', 'samples'}`` and a ``vocabulary``, or its config.
        threshold: see ``GroupVitSegmenter``; or how to determine it: 'shared' or 'by class' from the labels
            of ``tuning``, 'automatic' from its images only.
        tuning: another dataset, or its config; its classes may differ (base instead of novel classes);
            thresholds 'by class' apply to classes of the same name.
        slide: see ``SegmentationModel``.
        templates: prompt templates.
        name: prefix of the names of the results.
        ignore_index: label of pixels that are ignored.

    Raises:
        InputError: an invalid threshold, or one that needs ``tuning``.
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
            raise InputError(
                f"threshold must be a number, 'shared', 'by class' or 'automatic', got {threshold!r}"
            )
        if isinstance(threshold, str) and self.tuning is None:
            raise InputError(f'threshold {threshold!r} requires a dataset to determine it: pass tuning=...')
        self.threshold, self.slide, self.templates = threshold, slide, templates
        self.name, self.ignore_index = name, ignore_index

    def __call__(self, clip: GroupVit) -> dict[str, float]:
        """``miou``, ``foreground``, ``background``, ``oracle``, ``floor``, ``chance``, ``threshold``."""
        threshold = self._find(clip)
        model = self._model(clip, threshold, self.dataset.vocabulary)
        oracle = _Oracle(model, self.ignore_index)
        labelers = {
            'found': labeler(model),
            'oracle': oracle.by_own_groups,
            'floor': oracle.by_groups_before,
            'chance': chance_labeler(model.num_classes),
        }
        evaluator = SegmentationEvaluator(self.dataset, ignore_index=self.ignore_index, title=self.name)
        scores = evaluator.compare(labelers, model)
        report = {'miou': scores['found'].mean_iou, 'foreground': scores['found'].foreground}
        if model.background_index is not None:
            report['background'] = scores['found'].background
        report |= {kind: scores[kind].mean_iou for kind in ('oracle', 'floor', 'chance')}
        if threshold is not None:
            report['threshold'] = threshold.get('', 0.0) if isinstance(threshold, Mapping) else threshold
        return {f'{self.name}/{key}': value for key, value in report.items()}

    def _find(self, clip: GroupVit) -> float | Mapping[str, float] | None:
        """The threshold, determined on ``tuning`` if needed."""
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
        model.set_vocabulary(vocabulary, class_embedder(clip, templates=self.templates).embed(vocabulary))
        return model


class _Oracle:
    """Labels from the groups of an image, and from those of the previous image."""

    def __init__(self, model: GroupVitSegmenter, ignore_index: int) -> None:
        self.model, self.ignore_index = model, ignore_index
        self.owner: Tensor | None = None
        self.before: Tensor | None = None
        self.groups = 0

    def by_own_groups(self, image: Tensor, sample: SegmentationSample) -> Tensor:
        """(3, H, W) uint8 -> class of each pixel (H, W) if its group has the best class by the labels."""
        self.before, self.owner = self.owner, self._owner(image, sample.size)
        return self._named(self.owner, sample)

    def by_groups_before(self, image: Tensor, sample: SegmentationSample) -> Tensor | None:
        """The same with the groups of the previous image; None for the first."""
        return None if self.before is None else self._named(resize_labels(self.before, sample.size), sample)

    def _named(self, owner: Tensor, sample: SegmentationSample) -> Tensor:
        assert sample.mask is not None
        return oracle_labels(owner, sample.mask, self.groups, self.model.num_classes, self.ignore_index)

    def _owner(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Each pixel's group (H, W) with the whole image in one window."""
        model = self.model
        image = model.data_preprocessor.normalize(image.to(model.queries.device))
        seen = model.slide.resized((image.shape[-2], image.shape[-1]), model.patch_size)
        embedded = model.clip.encode_groups(F.interpolate(image[None], seen, mode='bilinear', antialias=True))
        self.groups = embedded.groups.shape[1]
        return pixel_groups(embedded, size)[0].cpu()
