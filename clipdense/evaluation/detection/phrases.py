"""Recall of phrases, as on Flickr30k entities.  n: boxes of a phrase, best first, m: its objects.

A phrase is found among the first k boxes if one of them overlaps an object of it with an IoU of at least 0.5.
Phrases without objects do not count; one without boxes is not found.

Kamath et al., MDETR (arXiv 2104.12763), section 4.1.

Source: microsoft/GLIP data/datasets/evaluation/flickr/flickr_eval.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor
from torchvision.ops import box_iou

from clipdense.registry import METRICS
from clipdense.utils.errors import InputError

_COUNTS = (1, 5, 10)


def found_at(boxes: Tensor, objects: Tensor, threshold: float = 0.5) -> int | None:
    """Number of boxes up to the first one that overlaps an object; None if none does.

    Args:
        boxes: (n, 4) x1, y1, x2, y2, best first.
        objects: (m, 4).
        threshold: least IoU.
    """
    if not len(boxes) or not len(objects):
        return None
    hits = (box_iou(boxes, objects).amax(dim=1) >= threshold).nonzero()[:, 0]
    return int(hits[0]) + 1 if len(hits) else None


def merged(objects: Tensor) -> Tensor:
    """(m, 4) -> (1, 4), the box around all of them."""
    return torch.cat([objects[:, :2].amin(dim=0), objects[:, 2:].amax(dim=0)])[None]


def phrase_recall(
    truth: Mapping[str, Any],
    found: Mapping[Any, Sequence[Tensor]],
    counts: Sequence[int] = _COUNTS,
    threshold: float = 0.5,
) -> dict[str, float]:
    """Recall over all phrases, over those of each kind, and with the objects of a phrase as one box.

    Args:
        truth: of ``data.detection.grounding.read_grounding``.
        found: image id -> boxes of each phrase, best first; images that are missing here do not count.
        counts: numbers of boxes.
        threshold: least IoU.

    Returns:
        ``R@1``, ``merged/R@1`` (the box around all objects, as in MDETR), and ``people/R@1`` if the file has
        several categories, which are the kinds of phrases; fractions.  An annotation of several kinds has
        the list ``kinds`` of their categories.

    Raises:
        InputError: no phrase has an object, or an image with fewer lists of boxes than phrases.
    """
    kinds = {one['id']: one['name'] for one in truth['categories']}
    objects: dict[tuple[Any, int], list[Sequence[float]]] = defaultdict(list)
    kinds_of: dict[tuple[Any, int], Sequence[str]] = {}
    for one in truth['annotations']:
        if one['image_id'] in found:
            x, y, width, height = one['bbox']
            key = one['image_id'], one['label']
            objects[key].append((x, y, x + width, y + height))
            kinds_of[key] = [kinds[kind] for kind in one.get('kinds', [one['category_id']])]
    if not objects:
        raise InputError('no phrase of these images has a box, so that there is no recall')
    places: dict[str, list[int | None]] = defaultdict(list)
    for (image, phrase), listed in objects.items():
        if phrase >= len(found[image]):
            raise InputError(
                f'image {image} has boxes of {len(found[image])} phrases, but phrase {phrase + 1} has objects'
            )
        boxes, own = found[image][phrase], torch.tensor(listed)
        place = found_at(boxes, own, threshold)
        places[''].append(place)
        places['merged/'].append(found_at(boxes, merged(own), threshold))
        if len(kinds) > 1:
            for kind in kinds_of[image, phrase]:
                places[f'{kind}/'].append(place)
    return {
        f'{group}R@{count}': sum(place is not None and place <= count for place in listed) / len(listed)
        for group, listed in places.items()
        for count in counts
    }


def boxes_of_phrases(boxes: Tensor, scores: Tensor, labels: Tensor, count: int) -> list[Tensor]:
    """Detections of an image -> the boxes of each of its ``count`` phrases, best first."""
    boxes = boxes.detach()
    order = scores.argsort(descending=True, stable=True)
    return [boxes[order[labels[order] == phrase]].float().cpu() for phrase in range(count)]


@METRICS.register_module()
class PhraseRecall(BaseMetric):
    """``phrase_recall`` of a detector on ``GroundingDetection``; labels count the phrases of a caption.

    Args:
        counts: numbers of boxes.
        threshold: least IoU.
        prefix, collect_device: as in MMEngine.

    Raises:
        InputError: a number out of range.
    """

    default_prefix = ''  # empty: MMEngine warns without it

    def __init__(
        self,
        counts: Sequence[int] = _COUNTS,
        threshold: float = 0.5,
        prefix: str | None = None,
        collect_device: str = 'cpu',
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not counts or any(isinstance(one, bool) or not isinstance(one, int) or one < 1 for one in counts):
            raise InputError(f'counts must be whole numbers, at least 1, got {counts!r}')
        if isinstance(threshold, bool) or not 0 < threshold <= 1:
            raise InputError(f'threshold must be an IoU above 0 and at most 1, got {threshold!r}')
        self.counts, self.threshold = tuple(counts), threshold

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep the detections of a batch.

        Raises:
            InputError: samples without a caption.
        """
        for sample in data_samples:
            if _get(sample, 'phrases') is None:
                raise InputError('PhraseRecall needs captions with boxes (GroundingDetection)')
            found = _get(sample, 'pred_instances')
            boxes, scores, labels = (_get(found, name) for name in ('bboxes', 'scores', 'labels'))
            boxes = boxes_of_phrases(boxes, scores, labels, len(_get(sample, 'phrases')))
            self.results.append((_get(sample, 'img_id'), [one[: max(self.counts)].numpy() for one in boxes]))

    def compute_metrics(self, results: list[tuple[Any, list[Any]]]) -> dict[str, float]:
        """Recall over all captions."""
        truth = (self.dataset_meta or {}).get('ground_truth')
        if truth is None:
            raise InputError('PhraseRecall needs a dataset whose metainfo has a ground_truth')
        found = {image: [torch.from_numpy(one) for one in boxes] for image, boxes in results}
        return phrase_recall(truth, found, self.counts, self.threshold)


def _get(sample: Any, name: str) -> Any:
    """An attribute of a sample, which MMEngine's evaluator may pass as a dict."""
    return sample.get(name) if hasattr(sample, 'get') else getattr(sample, name, None)
