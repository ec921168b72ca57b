"""Average precision as PASCAL VOC defines it.  n: detections of a class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clipdense.data.detection.coco import check_coco
from clipdense.data.detection.results import check_results

Style = Literal['11points', 'area']  # VOC2007, VOC2010 and later


def voc_average_precision(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    style: Style = '11points',
    iou_threshold: float = 0.5,
    pixels: Literal[0, 1] = 0,
) -> dict[str, float]:
    """AP of each class that has ground truth.

    Difficult objects (``iscrowd`` or ``difficult``) are ignored.  Each detection is matched to the object
    with the largest IoU; an object counts once.

    Args:
        truth: annotations in COCO's layout; checked here.
        results: detections in COCO's results layout.
        style: how precision is averaged over recall.
        iou_threshold: minimum IoU of a hit.
        pixels: 1 to include the last pixel, as the official code does for coordinates of VOC XML files.

    Returns:
        AP by class name; the mean is the mAP.

    Source: the VOC development kit, by py-faster-rcnn ``voc_eval``; its eleven recalls are ``arange(0, 1.1,
    .1)``, in which .7 is a little more than 0.7.
    """
    truth = check_coco(truth, 'the ground truth')
    names = {one['id']: one['name'] for one in truth['categories']}
    checked = check_results(results, truth['images'], names, 'bbox')
    objects: dict[int, dict[int, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for one in truth['annotations']:
        objects[one['category_id']][one['image_id']].append(one)
    found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for result in checked:
        found[result['category_id']].append(result)
    scores = {}
    for category, name in names.items():
        by_image = objects[category]
        total = sum(not _difficult(one) for listed in by_image.values() for one in listed)
        if total:
            hits, misses = _judge(found[category], by_image, iou_threshold, pixels)
            scores[name] = _area_under(hits, misses, total, style)
    return scores


def _judge(
    found: Sequence[Mapping[str, Any]],
    objects: Mapping[int, Sequence[Mapping[str, Any]]],
    threshold: float,
    pixels: int,
) -> tuple[NDArray, NDArray]:
    """Cumulative numbers (n,) of hits and misses, by descending score."""
    ordered = sorted(found, key=lambda one: -one['score'])
    hits, misses = np.zeros(len(ordered)), np.zeros(len(ordered))
    taken: set[tuple[int, int]] = set()
    for number, result in enumerate(ordered):
        image = result['image_id']
        there = objects.get(image, ())
        overlaps = _overlaps(result['bbox'], [one['bbox'] for one in there], pixels)
        best = int(np.argmax(overlaps)) if len(overlaps) else -1
        if best < 0 or overlaps[best] < threshold:
            misses[number] = 1
        elif _difficult(there[best]):
            continue
        elif (image, best) in taken:
            misses[number] = 1
        else:
            taken.add((image, best))
            hits[number] = 1
    return np.cumsum(hits), np.cumsum(misses)


def _overlaps(box: Sequence[float], others: Sequence[Sequence[float]], pixels: int) -> NDArray:
    """IoU of x, y, width, height boxes."""
    if not others:
        return np.zeros(0)
    rows = np.asarray(others, float)
    low = np.maximum(rows[:, :2], box[:2])
    high = np.minimum(rows[:, :2] + rows[:, 2:], np.add(box[:2], box[2:]))
    shared = np.clip(high - low + pixels, 0, None).prod(axis=1)
    areas = (rows[:, 2:] + pixels).prod(axis=1) + (box[2] + pixels) * (box[3] + pixels)
    return shared / np.maximum(areas - shared, np.finfo(float).eps)


def _area_under(hits: NDArray, misses: NDArray, total: int, style: Style) -> float:
    recall = hits / total
    precision = hits / np.maximum(hits + misses, np.finfo(float).eps)
    if style == '11points':
        points = np.arange(0.0, 1.1, 0.1)
        return float(sum(precision[recall >= point].max(initial=0.0) for point in points) / 11)
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * envelope[steps + 1]).sum())


def _difficult(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get('iscrowd') or annotation.get('difficult'))
