"""Average precision as MMEngine's metric.  n: detections of an image."""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmengine.evaluator import BaseMetric

from clipdense.data.detection.coco import check_coco
from clipdense.data.detection.results import Kind
from clipdense.registry import METRICS
from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write
from clipdense.vocab.names import normalize

from .coco import category_ids, check_truth, coco_precision, lvis_fixed_precision, lvis_means, lvis_precision
from .voc import voc_average_precision

_PROTOCOLS = ('coco', 'lvis', 'lvis_fixed', 'voc07', 'voc12')


@METRICS.register_module()
class DetectionAP(BaseMetric):
    """AP of a dataset over all classes, and over base and novel classes.

    Scores are named ``novel/AP50``, ``base/AP50``, ``all/AP50``; all are measured with the full vocabulary
    (generalized setting).  AP is a fraction; -1 if a group has no ground truth.

    Args:
        protocol: 'coco'; 'lvis', which adds APr, APc and APf; 'lvis_fixed', the same with the best 10,000
            detections of each class in place of the best 300 of each image, for which the detector must not
            keep few; 'voc07' or 'voc12', AP50 as VOC defines it.
        kinds: 'bbox', 'segm' or both; scores of masks are named ``segm/...``.
        results: JSON file for the detections, in COCO's results layout.
        prefix, collect_device: as in MMEngine.
    """

    default_prefix = ''  # empty: MMEngine warns without it

    def __init__(
        self,
        protocol: Literal['coco', 'lvis', 'lvis_fixed', 'voc07', 'voc12'] = 'coco',
        kinds: Sequence[Kind] = ('bbox',),
        results: str | Path | None = None,
        prefix: str | None = None,
        collect_device: str = 'cpu',
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if protocol not in _PROTOCOLS:
            raise InputError(f'unknown protocol {protocol!r}: choose from {", ".join(_PROTOCOLS)}')
        wrong = [kind for kind in kinds if kind not in ('bbox', 'segm')]
        if wrong or not kinds or isinstance(kinds, str):
            raise InputError(f"kinds must be ('bbox',), ('segm',) or both, got {kinds!r}")
        self.protocol, self.kinds, self.results_file = protocol, tuple(kinds), results
        self._checked: Any = None

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep the detections of a batch.

        Raises:
            InputError: with the first batch: the ground truth lacks what is measured.
        """
        self._check_truth()
        for sample in data_samples:
            image_id = _get(sample, 'img_id')
            self.results.append((image_id, to_coco(image_id, _get(sample, 'pred_instances'))))

    def compute_metrics(self, results: list[tuple[int, list[dict[str, Any]]]]) -> dict[str, float]:
        """Score the detections."""
        meta = self.dataset_meta or {}
        if 'ground_truth' not in meta:
            raise InputError('DetectionAP needs a dataset whose metainfo has a ground_truth')
        vocabulary, by_image = meta['vocabulary'], dict(results)  # images repeated for padding count once
        truth = _evaluated(meta['ground_truth'], by_image, vocabulary.class_names)
        ids = _category_ids(truth, vocabulary.class_names)
        found = [
            {**one, 'category_id': _category_of(one, ids)} for listed in by_image.values() for one in listed
        ]
        if self.results_file is not None:
            write_results(self.results_file, found)
        groups: dict[str, Sequence[str]] = {'all': vocabulary.class_names}
        if vocabulary.novel:
            novel = tuple(name for name in vocabulary.class_names if name in vocabulary.novel)
            groups |= {'base': vocabulary.base, 'novel': novel}
        scores: dict[str, float] = {}
        for kind in self.kinds:
            start = '' if kind == 'bbox' else f'{kind}/'
            scores |= {
                f'{start}{name}': value for name, value in self._scores(truth, found, kind, groups).items()
            }
        if all(value == -1 for value in scores.values()):
            warnings.warn(
                'no score can be determined (-1): the ground truth has no object of the classes of the '
                f'vocabulary in these {len(by_image)} images, or crowds only'
            )
        return scores

    def _check_truth(self) -> None:
        """Check the ground truth for all kinds, once for each dataset."""
        meta = self.dataset_meta or {}
        truth = meta.get('ground_truth')
        if truth is None or truth is self._checked:
            return
        names = meta['vocabulary'].class_names
        _category_ids(truth, names)
        checked = check_coco(truth, 'the ground truth')
        for kind in self.kinds:
            check_truth(checked, kind, names, self.protocol.startswith('lvis'))
        self._checked = truth

    def _scores(
        self, truth: Mapping[str, Any], found: list, kind: Kind, groups: Mapping[str, Sequence[str]]
    ) -> dict[str, float]:
        if self.protocol.startswith('voc'):
            style: Any = '11points' if self.protocol == 'voc07' else 'area'
            ap = voc_average_precision(truth, found, style)
            ap = {normalize(name): value for name, value in ap.items()}
            means = {
                group: [ap[normalize(name)] for name in names if normalize(name) in ap]
                for group, names in groups.items()
            }
            return {
                f'{group}/AP50': float(np.mean(known)) if known else -1.0 for group, known in means.items()
            }
        if self.protocol == 'lvis':
            precision = lvis_precision(truth, found, kind)
            return {f'all/{name}': value for name, value in lvis_means(truth, precision).items()}
        if self.protocol == 'lvis_fixed':
            fixed = lvis_means(truth, lvis_fixed_precision(truth, found, kind))
            return {f'all/{name}': value for name, value in fixed.items() if not name.startswith('AR')}
        precision = coco_precision(truth, found, kind, groups['all'])
        return {
            f'{group}/{name}': value
            for group, names in groups.items()
            for name, value in precision.means(names).items()
            if name in ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR@100')
        }


def _evaluated(
    truth: Mapping[str, Any], image_ids: Container[int], class_names: Sequence[str]
) -> Mapping[str, Any]:
    """The ground truth of the images that the detector has seen; objects of others would count as missed."""
    seen = [image for image in truth['images'] if image['id'] in image_ids]
    if len(seen) == len(truth['images']):
        return truth
    scored = set(_category_ids(truth, class_names))
    annotations = [one for one in truth['annotations'] if one['image_id'] in image_ids]
    lost = [
        one
        for one in truth['annotations']
        if one['image_id'] not in image_ids and one['category_id'] in scored
    ]
    if lost:
        warnings.warn(
            f'the scores are of {len(seen)} of {len(truth["images"])} images: {len(lost)} objects of the '
            'others are not counted',
            stacklevel=2,
        )
    return {**truth, 'images': seen, 'annotations': annotations}


def _category_ids(truth: Mapping[str, Any], class_names: Sequence[str]) -> list[int]:
    """The category of each label."""
    ids = category_ids(truth)
    unknown = [name for name in class_names if normalize(name) not in ids]
    if unknown:
        raise InputError(f'the vocabulary has classes that are not in the ground truth: {unknown[:5]}')
    return [ids[normalize(name)] for name in class_names]


def _category_of(detection: Mapping[str, Any], ids: Sequence[int]) -> int:
    label = detection['category_id']
    if not 0 <= label < len(ids):
        raise InputError(
            f'a detection of image {detection["image_id"]} has the label {label}, but the vocabulary has '
            f'{len(ids)} classes; set the vocabulary of the dataset on the detector'
        )
    return ids[label]


def to_coco(image_id: int, found: Any) -> list[dict[str, Any]]:
    """Detections of an image in COCO's results layout; ``category_id`` is the label."""
    boxes = _get(found, 'bboxes').detach().cpu().double().numpy()
    scores = _get(found, 'scores').detach().cpu().double().tolist()
    labels = _get(found, 'labels').cpu().tolist()
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    rows = [
        {'image_id': image_id, 'category_id': label, 'bbox': box, 'score': score}
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
    masks = found.get('masks') if hasattr(found, 'get') else None
    if masks is not None:
        for row, mask in zip(rows, masks, strict=True):
            row['segmentation'] = encode_mask(np.asarray(mask.cpu() if hasattr(mask, 'cpu') else mask))
    return rows


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool -> compressed run lengths, ready for JSON."""
    from pycocotools import mask as coco_mask

    coded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {'size': list(map(int, coded['size'])), 'counts': coded['counts'].decode()}


def write_results(path: str | Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write a COCO results file atomically."""
    import json

    with atomic_write(path, 'w') as file:
        json.dump(list(results), file)


def _get(sample: Any, name: str) -> Any:
    """An attribute of a sample, which MMEngine's evaluator may pass as a dict."""
    return sample[name] if isinstance(sample, Mapping) else getattr(sample, name)
