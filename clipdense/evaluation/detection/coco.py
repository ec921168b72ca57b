"""Average precision as COCO and LVIS define it, by pycocotools and faster-coco-eval.

T: IoU thresholds, R: recalls, K: classes, A: areas, M: numbers of detections.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipdense.data.detection.coco import among, check_coco
from clipdense.data.detection.results import Kind, check_results
from clipdense.data.run_lengths import has_mask
from clipdense.utils.errors import InputError
from clipdense.vocab.names import normalize, places

LVIS_DETECTIONS = 300  # per image, over all classes
FIXED_DETECTIONS = 10_000  # per class, over all images
_FREQUENCIES = {'r': 'rare', 'c': 'common', 'f': 'frequent'}
_LVIS_LISTS = {  # of an image -> what happens without
    'neg_category_ids': 'detections of classes that are not in an image do not count as false',
    'not_exhaustive_category_ids': 'all classes in an image count as fully annotated',
}
_AREAS = ('', 's', 'm', 'l')


class Precision(NamedTuple):
    """Precision and recall tables; -1 for classes without ground truth."""

    class_names: tuple[str, ...]
    precision: NDArray[np.floating]  # (T, R, K, A, M)
    recall: NDArray[np.floating]  # (T, K, A, M)
    max_detections: tuple[int, ...]

    def means(self, names: Sequence[str] | None = None) -> dict[str, float]:
        """AP, AP50, AP75, AP of small, medium and large objects, and recalls, over some classes or all.

        Classes without ground truth are excluded; -1 if none is left, as in COCO.
        """
        at = self._places(names)
        values = self.precision[:, :, at]
        found = {'AP': values[..., 0, -1], 'AP50': values[0, ..., 0, -1], 'AP75': values[5, ..., 0, -1]}
        found |= {f'AP{name}': values[..., area, -1] for area, name in enumerate(_AREAS) if name}
        for place, count in enumerate(self.max_detections):
            found[f'AR@{count}'] = self.recall[:, at, 0, place]
        most = self.max_detections[-1]
        found |= {
            f'AR{name}@{most}': self.recall[:, at, area, -1] for area, name in enumerate(_AREAS) if name
        }
        return {name: _mean(part) for name, part in found.items()}

    def per_class(self, threshold: int | None = None) -> dict[str, float]:
        """AP of each class; at one IoU threshold if ``threshold`` is its index (0 is .5)."""
        part = self.precision if threshold is None else self.precision[[threshold]]
        return {name: _mean(part[:, :, at, 0, -1]) for at, name in enumerate(self.class_names)}

    def _places(self, names: Sequence[str] | None) -> list[int]:
        place = places(self.class_names)
        wanted = self.class_names if names is None else names
        _refuse_unknown(wanted, place)
        return [place[normalize(name)] for name in wanted]


def coco_precision(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    kind: Kind = 'bbox',
    class_names: Sequence[str] | None = None,
) -> Precision:
    """Precision and recall of detections against COCO annotations.

    Args:
        truth: annotations; checked here.
        results: detections in COCO's results layout; may be empty.
        kind: boxes or masks.
        class_names: classes to score, such as OV-COCO's 65; all by default.

    Raises:
        InputError: annotations or detections that cannot be scored, or an unknown class.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        return _evaluate(COCO, COCOeval, truth, results, kind, class_names, (1, 10, 100))


def lvis_precision(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    kind: Kind = 'segm',
    max_detections: int = LVIS_DETECTIONS,
) -> Precision:
    """Precision and recall by LVIS's protocol, whose images are annotated for some of the classes only.

    The best ``max_detections`` of each image count, over all classes.  The area of a mask is its own, even if
    the result has a box.

    Raises:
        InputError: as ``coco_precision``; or categories without a frequency.

    Source: lvis-dataset/lvis-api ``lvis/eval.py``, whose package no longer runs; same results.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    def evaluator(gt: Any, dt: Any, iou_type: str) -> Any:
        return COCOeval_faster(gt, dt, iou_type, lvis_style=True, print_function=lambda *_: None)

    return _evaluate(COCO, evaluator, truth, results, kind, None, (max_detections,), lvis=True)


def lvis_fixed_precision(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    kind: Kind = 'segm',
    per_class: int = FIXED_DETECTIONS,
) -> Precision:
    """LVIS's protocol for fixed AP: the best of each class count, and any number of an image.

    With a limit for each image, classes compete for its places, so that lower scores of one class raise the
    AP of others.

    Raises:
        InputError: as ``lvis_precision``.

    Source: Dave et al., arXiv 2102.01066, section 4.
    """
    counted = _best_of_each(
        check_results(results, truth['images'], category_ids(truth).values(), kind), 'category_id', per_class
    )
    most = Counter(one['image_id'] for one in counted).most_common(1)
    return lvis_precision(truth, counted, kind, most[0][1] if most else 1)


def lvis_means(truth: Mapping[str, Any], scores: Precision) -> dict[str, float]:
    """``Precision.means``, and AP of rare, common and frequent classes as APr, APc and APf."""
    found = scores.means()
    for letter in _FREQUENCIES:
        names = [one['name'] for one in truth['categories'] if one.get('frequency') == letter]
        found[f'AP{letter}'] = scores.means(names)['AP'] if names else -1.0
    return found


def check_truth(
    truth: Mapping[str, Any], kind: Kind, class_names: Sequence[str] | None = None, lvis: bool = False
) -> None:
    """Check that annotations have what is measured, before detections are computed.

    Args:
        truth: from ``check_coco``.
        kind: boxes or masks.
        class_names: the classes that are scored; all by default.
        lvis: by LVIS's protocol.

    Raises:
        InputError: masks are measured, and objects of these classes have none; for LVIS categories without a
            frequency, or unknown ids in the lists of an image.

    Warns:
        UserWarning: for LVIS, images without these lists.
    """
    if kind not in ('bbox', 'segm'):
        raise InputError(f"kind must be 'bbox' or 'segm', got {kind!r}")
    if lvis:
        _check_lvis(truth)
    if kind != 'segm':
        return
    names = {one['id']: one['name'] for one in truth['categories']}
    files = {one['id']: one.get('file_name') or f'id {one["id"]}' for one in truth['images']}
    scored = {normalize(name) for name in (names.values() if class_names is None else class_names)}
    chosen = [one for one in truth['annotations'] if normalize(names[one['category_id']]) in scored]
    missing = [one for one in chosen if not has_mask(one)]
    if missing:
        one = missing[0]
        raise InputError(
            f'masks are measured, but {len(missing)} of {len(chosen)} objects of the ground truth have no '
            f'mask (segmentation), first a {names[one["category_id"]]!r} at {one["bbox"]} in image '
            f"{files[one['image_id']]}; add the masks, or measure kinds=('bbox',)"
        )


def _check_lvis(truth: Mapping[str, Any]) -> None:
    """What LVIS's protocol needs beyond COCO's."""
    plain = [one['name'] for one in truth['categories'] if one.get('frequency') not in _FREQUENCIES]
    if plain:
        raise InputError(f"LVIS's AP needs categories with frequency r, c or f: {plain[0]!r} has none")
    known = {one['id'] for one in truth['categories']}
    for key, what in _LVIS_LISTS.items():
        missing = [image['id'] for image in truth['images'] if image.get(key) is None]
        if missing:
            warnings.warn(
                f'{len(missing)} of {len(truth["images"])} images of the ground truth have no {key}, first '
                f'image {missing[0]}; none is assumed: {what}',
                stacklevel=3,
            )
        for image in truth['images']:
            given = image.get(key)
            listed = [] if given is None else given
            wrong = [one for one in listed if not among(one, known)] if isinstance(listed, list) else [listed]
            if wrong:
                raise InputError(
                    f'the ground truth: {key} of image {image["id"]} has {wrong[0]!r:.40}, which is not the '
                    'id of a category'
                )


def _evaluate(
    database: Any,
    evaluator: Any,
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    kind: Kind,
    class_names: Sequence[str] | None,
    max_detections: tuple[int, ...],
    lvis: bool = False,
) -> Precision:
    truth = check_coco(truth, 'the ground truth')
    check_truth(truth, kind, class_names, lvis and len(results) > 0)
    ids = category_ids(truth)
    names = [one['name'] for one in truth['categories']] if class_names is None else class_names
    _refuse_unknown(names, ids)
    wanted = sorted((ids[normalize(name)], name) for name in names)
    images = [one['id'] for one in truth['images']]
    checked = check_results(results, truth['images'], ids.values(), kind)
    chosen = {category for category, _ in wanted}
    counted = [one for one in checked if one['category_id'] in chosen]
    if lvis:
        counted = _best_of_each(counted, 'image_id', *max_detections)
    if not counted:
        return _nothing_found(truth, wanted, max_detections)
    gt = database()
    gt.dataset = truth
    gt.createIndex()
    evaluation = evaluator(gt, gt.loadRes(counted), kind)
    evaluation.params.catIds = [category for category, _ in wanted]
    evaluation.params.imgIds = sorted(images)
    evaluation.params.maxDets = list(max_detections)
    evaluation.evaluate()
    evaluation.accumulate()
    shape = (len(evaluation.params.iouThrs), len(evaluation.params.recThrs), len(wanted), 4, -1)
    precision = np.asarray(evaluation.eval['precision']).reshape(shape)
    recall = np.asarray(evaluation.eval['recall']).reshape(shape[0], *shape[2:])
    return Precision(tuple(name for _, name in wanted), precision, recall, max_detections)


def category_ids(truth: Mapping[str, Any]) -> dict[str, int]:
    """Category ids by the normal form of their names."""
    return {normalize(one['name']): one['id'] for one in truth['categories']}


def _refuse_unknown(names: Sequence[str], known: Mapping[str, int]) -> None:
    unknown = sorted(name for name in names if normalize(name) not in known)
    if unknown:
        raise InputError(f'unknown classes {unknown[:5]}: not in the ground truth')


def _nothing_found(
    truth: Mapping[str, Any], wanted: Sequence[tuple[int, str]], max_detections: tuple[int, ...]
) -> Precision:
    """Scores without detections: 0 for every class with ground truth, -1 for the others."""
    there = {one['category_id'] for one in truth['annotations'] if not one['iscrowd']}
    values = np.array([0.0 if category in there else -1.0 for category, _ in wanted])
    precision = np.broadcast_to(values[:, None, None], (10, 101, len(values), 4, len(max_detections)))
    return Precision(tuple(name for _, name in wanted), precision, precision[:, 0], max_detections)


def _best_of_each(results: list[dict[str, Any]], key: str, count: int) -> list[dict[str, Any]]:
    """The ``count`` best results of each image or class; ties keep their order."""
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        groups[result[key]].append(result)
    if all(len(found) <= count for found in groups.values()):
        return results
    return [one for found in groups.values() for one in sorted(found, key=lambda one: -one['score'])[:count]]


def _mean(values: NDArray[np.floating]) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0
