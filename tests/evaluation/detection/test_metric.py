"""The metric as MMEngine's loops use it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from clipdense.evaluation.detection.metric import DetectionAP
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary


def sample(image_id, boxes=(), scores=(), labels=(), masks=None):
    found = {
        'bboxes': torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        'scores': torch.tensor(scores),
        'labels': torch.tensor(labels, dtype=torch.int64),
    }
    if masks is not None:
        found['masks'] = masks
    return {'img_id': image_id, 'pred_instances': found}


def meta(file, names, novel=()):
    return {
        'vocabulary': Vocabulary(tuple(names), novel=frozenset(novel)),
        'classes': tuple(names),
        'ground_truth': file['gt'],
    }


def samples_of(file, names, kind='bbox'):
    """The golden detections as a detector would give them, classes in the vocabulary's order."""
    ids = {one['id']: one['name'] for one in file['gt']['categories']}
    by_image = {one['id']: [] for one in file['gt']['images']}
    for box, mask in zip(file['detections_bbox'], file['detections_segm'], strict=True):
        if ids[box['category_id']] in names:
            by_image[box['image_id']].append((box, mask))
    from pycocotools import mask as coco_mask

    for image_id, found in by_image.items():
        boxes = [[b[0], b[1], b[0] + b[2], b[1] + b[3]] for b in (box['bbox'] for box, _ in found)]
        labels = [names.index(ids[box['category_id']]) for box, _ in found]
        masks = [torch.from_numpy(coco_mask.decode(mask['segmentation']).astype(bool)) for _, mask in found]
        yield sample(image_id, boxes, [box['score'] for box, _ in found], labels, masks)


def test_coco_with_base_and_novel(golden_path, tmp_path):
    """The vocabulary's order is not that of the file."""
    file = json.loads(golden_path('coco_eval_tiny.json').read_text())
    base, novel = file['splits']['base'], file['splits']['novel']
    names = [*novel, *reversed(base)]
    metric = DetectionAP(kinds=('bbox', 'segm'), results=tmp_path / 'results.json')
    metric.dataset_meta = meta(file, names, novel)
    for one in samples_of(file, names):
        metric.process(None, [one])
    scores = metric.evaluate(12)
    for group, official in (('base', 'base'), ('novel', 'novel'), ('all', 'all65_style')):
        for start, kind in (('', 'bbox'), ('segm/', 'segm')):
            expected = file['coco'][kind][official]['results']
            for name in ('AP', 'AP50', 'AP75'):
                assert scores[f'{start}{group}/{name}'] == pytest.approx(expected[name], abs=1e-4)
    rows = json.loads((tmp_path / 'results.json').read_text())
    assert {'image_id', 'category_id', 'bbox', 'score', 'segmentation'} <= rows[0].keys()


@pytest.mark.parametrize(('protocol', 'style'), [('voc07', '11points'), ('voc12', 'area')])
def test_voc(golden_path, protocol, style):
    file = json.loads(golden_path('coco_eval_tiny.json').read_text())
    names = file['splits']['base'] + file['splits']['novel']
    metric = DetectionAP(protocol)
    metric.dataset_meta = meta(file, names, file['splits']['novel'])
    for one in samples_of(file, names):
        metric.process(None, [one])
    scores = metric.evaluate(12)
    official = file['voc_iou50'][f'{style}/plain']
    assert scores['all/AP50'] == pytest.approx(official['mAP'], abs=1e-5)
    novel = [official['per_category'][name] for name in file['splits']['novel']]
    assert scores['novel/AP50'] == pytest.approx(np.mean(novel), abs=1e-5)


def test_lvis(golden_path):
    file = json.loads(golden_path('lvis_eval_tiny.json').read_text())
    names = [one['name'] for one in file['gt']['categories']]
    metric = DetectionAP('lvis', kinds=('bbox', 'segm'))
    metric.dataset_meta = meta(file, names)
    for one in samples_of(file, names):
        metric.process(None, [one])
    scores = metric.evaluate(12)
    for kind, start in (('bbox', ''), ('segm', 'segm/')):
        for name in ('AP', 'APr', 'APc', 'APf'):
            expected = file['official'][kind]['results'][name]
            assert scores[f'{start}all/{name}'] == pytest.approx(expected, abs=1e-4)


def test_lvis_fixed(golden_path):
    file = json.loads(golden_path('lvis_eval_tiny.json').read_text())
    names = [one['name'] for one in file['gt']['categories']]
    metric = DetectionAP('lvis_fixed')
    metric.dataset_meta = meta(file, names)
    for one in samples_of(file, names):
        metric.process(None, [one])
    scores = metric.evaluate(12)
    assert scores['all/APr'] == pytest.approx(file['official']['bbox']['results']['APr'], abs=1e-4)
    assert not any('AR' in name for name in scores)


@pytest.mark.parametrize('protocol', ['coco', 'lvis', 'voc07'])
def test_nothing_found_is_zero(protocol):
    truth = {
        'images': [{'id': 1, 'width': 9, 'height': 9}],
        'categories': [
            {'id': 1, 'name': 'cat', 'frequency': 'r'},
            {'id': 2, 'name': 'dog', 'frequency': 'f'},
        ],
        'annotations': [{'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 5, 5]}],
    }
    metric = DetectionAP(protocol)
    metric.dataset_meta = meta({'gt': truth}, ['cat', 'dog'], ['dog'])
    metric.process(None, [sample(1)])
    scores = metric.evaluate(1)
    assert scores['all/AP50'] == 0
    if protocol != 'lvis':
        assert (scores['base/AP50'], scores['novel/AP50']) == (0, -1)


def test_refusals():
    with pytest.raises(InputError, match="unknown protocol 'pascal': choose from coco"):
        DetectionAP('pascal')
    metric = DetectionAP()
    metric.process(None, [sample(1)])
    with pytest.raises(InputError, match='ground_truth'):
        metric.evaluate(1)
