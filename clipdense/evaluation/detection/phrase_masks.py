"""Overlap of what is segmented for a phrase with what it describes, as on PhraseCut.

The masks of all detections of a phrase are joined, as are those of its objects.  n: detections, m: objects,
(H, W): pixels.

Wu et al., PhraseCut (arXiv 2008.01187), section 5.

Source: ChenyunWu/PhraseCutDataset utils/evaluator.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from clipdense.data.run_lengths import has_mask, to_pixels
from clipdense.registry import METRICS
from clipdense.utils.errors import InputError

THRESHOLDS = (0.5, 0.7, 0.9)
SCORE_THRESHOLD = 0.3


class Overlap(NamedTuple):
    """Of a phrase, in pixels."""

    common: int
    union: int


def overlap(found: Tensor, objects: Tensor) -> Overlap:
    """Of the joined masks (n, H, W) of detections and (m, H, W) of objects, bool; n may be 0."""
    one, other = found.any(dim=0), objects.any(dim=0)
    return Overlap(int((one & other).sum()), int((one | other).sum()))


def summary(overlaps: Iterable[Overlap], thresholds: Sequence[float] = THRESHOLDS) -> dict[str, float]:
    """``mIoU``, the mean over phrases; ``cIoU``, of the pixels of all phrases; and ``Pr@0.5``, the share of
    phrases with a higher IoU.

    Raises:
        InputError: there are no phrases.
    """
    listed = list(overlaps)
    if not listed:
        raise InputError('no phrase of these images has a mask, so that there is no IoU')
    ious = [one.common / one.union for one in listed]
    scores = {
        'mIoU': sum(ious) / len(ious),
        'cIoU': sum(one.common for one in listed) / sum(one.union for one in listed),
    }
    return scores | {f'Pr@{one:g}': sum(iou > one for iou in ious) / len(ious) for one in thresholds}


class PhraseObjects:
    """The masks of the objects of phrases.

    Args:
        truth: of ``read_grounding`` or ``read_phrasecut``; phrases without masks do not count.
    """

    def __init__(self, truth: Mapping[str, Any]) -> None:
        self.sizes = {one['id']: (one['height'], one['width']) for one in truth['images']}
        self._objects: dict[Any, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for one in truth['annotations']:
            if has_mask(one):
                self._objects[one['image_id']][one['label']].append(one['segmentation'])

    def overlaps(self, image: Any, masks: Tensor, labels: Tensor) -> list[Overlap]:
        """Of each phrase of an image that has objects.

        Args:
            image: its id.
            masks: (n, H, W) bool of detections.
            labels: (n,) the phrase of each.

        Raises:
            InputError: masks of another size than the image.
        """
        found, size = [], self.sizes[image]
        if tuple(masks.shape[1:]) != size:
            raise InputError(f'image {image} has {size} pixels, its masks {tuple(masks.shape[1:])} (H, W)')
        for phrase, objects in self._objects[image].items():
            pixels = torch.from_numpy(np.stack([to_pixels(one, size) for one in objects])).bool()
            found.append(overlap(masks[labels == phrase], pixels))
        return found


@METRICS.register_module()
class PhraseMasks(BaseMetric):
    """``summary`` of a detector with masks on ``PhraseCut``, or on captions with masks.

    Args:
        thresholds: of the IoU.
        score_threshold: detections with a lower score do not count.
        prefix, collect_device: as in MMEngine.

    Raises:
        InputError: a number out of range.
    """

    default_prefix = ''  # empty: MMEngine warns without it

    def __init__(
        self,
        thresholds: Sequence[float] = THRESHOLDS,
        score_threshold: float = SCORE_THRESHOLD,
        prefix: str | None = None,
        collect_device: str = 'cpu',
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        numbers = {'thresholds': thresholds, 'score_threshold': (score_threshold,)}
        for name, values in numbers.items():
            listed = isinstance(values, (list, tuple))
            if not listed or any(isinstance(one, bool) or not 0 <= one <= 1 for one in values):
                raise InputError(f'{name} must be between 0 and 1, got {values!r:.60}')
        self.thresholds, self.score_threshold = tuple(thresholds), score_threshold
        self._objects: tuple[Any, PhraseObjects] | None = None

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep the overlaps of a batch.

        Raises:
            InputError: samples without a caption, or detections without masks.
        """
        truth = (self.dataset_meta or {}).get('ground_truth')
        if truth is None:
            raise InputError('PhraseMasks needs a dataset whose metainfo has a ground_truth')
        if self._objects is None or self._objects[0] is not truth:
            self._objects = truth, PhraseObjects(truth)
        for sample in data_samples:
            if _get(sample, 'phrases') is None:
                raise InputError('PhraseMasks needs phrases with masks (PhraseCut)')
            found, image = _get(sample, 'pred_instances'), _get(sample, 'img_id')
            masks = _get(found, 'masks')
            if masks is None:
                raise InputError(NO_MASKS)
            kept = _get(found, 'scores') >= self.score_threshold
            overlaps = self._objects[1].overlaps(
                image, masks[kept].cpu().bool(), _get(found, 'labels')[kept].cpu()
            )
            self.results.append((image, [tuple(one) for one in overlaps]))

    def compute_metrics(self, results: list[tuple[Any, list[tuple[int, int]]]]) -> dict[str, float]:
        """Over all phrases."""
        by_image = dict(results)  # images repeated for padding count once
        return summary((Overlap(*one) for found in by_image.values() for one in found), self.thresholds)


NO_MASKS = (
    'the detector gives no masks: the overlap of phrases needs one that does, such as a GLIPv2 trained with '
    'the objective masks'
)


def _get(sample: Any, name: str) -> Any:
    """An attribute of a sample, which MMEngine's evaluator may pass as a dict."""
    return sample.get(name) if hasattr(sample, 'get') else getattr(sample, name, None)
