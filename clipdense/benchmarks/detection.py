"""Published protocols and scores of open-vocabulary detection, and measurement of any detector.

K: classes, n: detections of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.image_io import read_image
from clipdense.utils.progress import track


@dataclass(frozen=True)
class DetectionProtocol:
    """A protocol: dataset, classes and scores.

    Args:
        name: of the protocol.
        title: as in papers.
        layout: 'coco' (an annotation file and a folder of images) or 'voc' (a folder in PASCAL VOC's layout).
        annotations, images: paths in the data folder; for 'voc' ``images`` is the folder with the lists.
        split: of a 'voc' folder.
        classes: of the vocabulary, see ``data.detection.splits.choose``; None for all.
        metric: protocol of ``DetectionAP``.
        kind: boxes or masks.
        headline: the main score.
        scores: the scores with published values, in the order of the table.
        max_detections: per image.
        source: where the protocol was published.
    """

    name: str
    title: str
    layout: Literal['coco', 'voc']
    images: str
    metric: Literal['coco', 'lvis', 'voc07']
    headline: str
    scores: tuple[str, ...]
    source: str
    annotations: str = ''
    split: str = ''
    classes: str | None = None
    kind: Literal['bbox', 'segm'] = 'bbox'
    max_detections: int = 100

    def open(self, root: str | Path) -> Any:
        """Open the dataset in a data folder.

        Raises:
            InputError: files are missing or cannot be read.
        """
        from clipdense.data.detection.datasets import CocoDetection, VOCDetection

        root = Path(root)
        if self.layout == 'voc':
            return VOCDetection(root / self.images, self.split, self.classes)
        return CocoDetection(root / self.annotations, root / self.images, self.classes)


DETECTION_PROTOCOLS: dict[str, DetectionProtocol] = {
    protocol.name: protocol
    for protocol in (
        DetectionProtocol(
            'ov_coco',
            'OV-COCO 48 / 17',
            'coco',
            images='coco/val2017',
            annotations='coco/annotations/instances_val2017.json',
            classes='ov_coco',
            metric='coco',
            headline='novel/AP50',
            scores=('novel/AP50', 'base/AP50', 'all/AP50'),
            source='Bansal et al., ECCV 2018 (classes); Zareian et al., arXiv 2011.10678: 4,836 images',
        ),
        DetectionProtocol(
            'ov_lvis',
            'OV-LVIS v1',
            'coco',
            images='coco',
            annotations='lvis/lvis_v1_val.json',
            metric='lvis',
            kind='segm',
            headline='segm/all/APr',
            scores=('segm/all/APr', 'segm/all/APc', 'segm/all/APf', 'segm/all/AP'),
            max_detections=300,
            source='Gu et al., arXiv 2104.13921: masks, the 337 rare classes are novel',
        ),
        DetectionProtocol(
            'voc07',
            'VOC 2007, transfer from LVIS',
            'voc',
            images='VOCdevkit/VOC2007',
            split='test',
            metric='voc07',
            headline='all/AP50',
            scores=('all/AP50',),
            source='Gu et al., arXiv 2104.13921: no training on VOC',
        ),
    )
}

Status = Literal['V', 'S', 'M']
STATUSES: dict[str, str] = {
    'V': 'read in a public repository or abstract',
    'S': 'quoted by another paper',
    'M': 'recalled from the paper, not verified',
}


@dataclass(frozen=True)
class PublishedDetection:
    """Published scores in percent, in the order of the protocol's ``scores``; None if not published."""

    method: str
    protocol: str
    values: tuple[float | None, ...]
    status: Status
    source: str

    def __post_init__(self) -> None:
        wanted = len(DETECTION_PROTOCOLS[self.protocol].scores)
        if len(self.values) != wanted:
            raise ValueError(f'{self.method} on {self.protocol} needs {wanted} values, got {self.values}')

    def of(self, score: str) -> float | None:
        """One score."""
        return self.values[DETECTION_PROTOCOLS[self.protocol].scores.index(score)]


PUBLISHED_DETECTION: tuple[PublishedDetection, ...] = tuple(
    PublishedDetection(*row)
    for row in (
        ('ViLD-text R50', 'ov_coco', (5.9, 61.8, 47.2), 'M', 'ViLD, paper'),
        ('ViLD R50', 'ov_coco', (27.6, 59.5, 51.3), 'S', 'ViLD, paper; base is recalled'),
        ('RegionCLIP R50', 'ov_coco', (31.4, None, 50.4), 'V', 'RegionCLIP, README'),
        ('OV-DETR', 'ov_coco', (29.4, 61.0, 52.7), 'V', 'OV-DETR, README'),
        ('Detic R50', 'ov_coco', (27.8, None, 45.0), 'V', 'Detic, README'),
        ('BARON R50', 'ov_coco', (34.6, None, None), 'V', 'BARON, repository'),
        ('ViLD-text R50', 'ov_lvis', (10.1, 23.9, 32.5, 24.9), 'S', 'Detic, table 3'),
        ('ViLD R50', 'ov_lvis', (16.6, 19.8, 28.2, 22.5), 'V', 'released weights, README'),
        ('ViLD-ensemble R50', 'ov_lvis', (18.0, 24.7, 30.6, 25.9), 'V', 'released weights, README'),
        ('ViLD R152', 'ov_lvis', (19.6, 21.6, 28.5, 24.0), 'V', 'released weights, README'),
        ('ViLD-ensemble R152', 'ov_lvis', (19.2, 24.8, 30.8, 26.2), 'V', 'released weights, README'),
        ('ViLD R50, 20 epochs', 'ov_lvis', (16.8, 25.6, 28.5, 25.2), 'V', 'DetPro, README'),
        ('DetPro', 'ov_lvis', (19.8, 25.6, 28.9, 25.9), 'V', 'DetPro, README'),
        ('ViLD R50', 'voc07', (72.2,), 'V', 'ViLD, abstract'),
        ('ViLD-text R50', 'voc07', (40.5,), 'M', 'ViLD, paper'),
    )
)


def find_protocol(name: str) -> DetectionProtocol:
    """The protocol of this name.

    Raises:
        InputError: an unknown name; the message suggests the nearest.
    """
    if name not in DETECTION_PROTOCOLS:
        known = ', '.join(DETECTION_PROTOCOLS)
        raise InputError(
            f'unknown detection protocol {name!r}.{nearest(name, DETECTION_PROTOCOLS)} Known: {known}'
        )
    return DETECTION_PROTOCOLS[name]


def bench_detector(
    model: Any,
    rules: Any,
    protocol: DetectionProtocol,
    dataset: Any,
    limit: int | None = None,
) -> dict[str, float]:
    """Scores of a detector under a protocol, as shares of 1, under the names of ``DetectionAP``.

    Args:
        model: a detector whose vocabulary is the dataset's: ``predict(images, rules)`` takes RGB images
            (H, W, 3) uint8 and returns for each ``xyxy`` (n, 4), ``confidence`` (n,), ``class_ids`` (n,) and,
            if masks are measured, ``masks`` (n, H, W).
        rules: which detections count; papers use a very low score threshold.
        protocol: what is measured.
        dataset: from ``protocol.open``.
        limit: number of images; all by default.

    Raises:
        InputError: an unreadable image, or a detector without masks if they are measured.
    """
    from clipdense.evaluation.detection.metric import DetectionAP

    metric = DetectionAP(protocol.metric, (protocol.kind,))
    metric.dataset_meta = dataset.metainfo
    for record in track(dataset.images[:limit], protocol.title):
        (found,) = model.predict([np.asarray(read_image(record.path))], rules)
        metric.process(None, [{'img_id': record.image_id, 'pred_instances': _instances(found, protocol)}])
    return metric.compute_metrics(metric.results)


def row(method: str, protocol: DetectionProtocol, scores: Mapping[str, float]) -> str:
    """A row of a Markdown table: the protocol's scores in percent, published ones in brackets."""
    own = [one for one in PUBLISHED_DETECTION if (one.method, one.protocol) == (method, protocol.name)]
    cells = []
    for score in protocol.scores:
        value = scores.get(score, -1.0)
        theirs = own[0].of(score) if own else None
        beside = '' if theirs is None else f' ({theirs:g} [{own[0].status}])'
        cells.append(f'{"n/a" if value < 0 else f"{100 * value:.2f}"}{beside}')
    return f'| {method} | {protocol.title} | {" | ".join(cells)} |'


def _instances(found: Any, protocol: DetectionProtocol) -> dict[str, Any]:
    """The best detections of an image, limited by the protocol, under mmdet's names."""
    scores = torch.as_tensor(found.confidence)
    best = scores.argsort(descending=True, stable=True)[: protocol.max_detections]
    instances = {
        'bboxes': torch.as_tensor(found.xyxy)[best],
        'scores': scores[best],
        'labels': torch.as_tensor(found.class_ids)[best],
    }
    masks = getattr(found, 'masks', None)
    if protocol.kind == 'segm':
        if masks is None:
            raise InputError(f'{protocol.title} measures masks, but the detector returns none')
        instances['masks'] = torch.as_tensor(masks)[best]
    return instances
