"""The rules of a detection, and what they make of scored boxes."""

from __future__ import annotations

import pytest
import torch

from clipdense.tasks.detection import DetectionRules, select_detections
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
SCORES = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.2, 0.3]])


def listed(found):
    return [
        (int(box[0]), int(box[3]), class_id)
        for box, class_id in zip(found.xyxy.tolist(), found.class_ids.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'score_threshold': 0.25}, [(0, 10, 0), (0, 9, 1), (50, 60, 1)]),
        ({'score_threshold': 0.25, 'class_agnostic': True}, [(0, 10, 0), (50, 60, 1)]),
        ({'score_threshold': 0.25, 'iou_threshold': 0.95}, [(0, 10, 0), (0, 9, 0), (0, 9, 1), (50, 60, 1)]),
        ({'score_threshold': 0.25, 'max_detections': 1}, [(0, 10, 0)]),
        ({'score_threshold': 0.95}, []),
        ({'candidates': 2, 'iou_threshold': 0.99}, [(0, 10, 0), (0, 9, 0)]),
        ({'score_threshold': torch.tensor([0.85, 0.5])}, [(0, 10, 0), (0, 9, 1)]),
    ],
    ids=[
        'per class',
        'agnostic',
        'overlap',
        'max detections',
        'nothing',
        'candidates',
        'threshold of a class',
    ],
)
def test_selection(options, expected):
    assert listed(select_detections(BOXES, SCORES, **options)) == expected


def test_equal_to_mmdet():
    """Its multiclass suppression, class-agnostic boxes spread over all classes."""
    from mmdet.models.layers import multiclass_nms

    corner = torch.rand(60, 2) * 50
    boxes, scores = torch.cat([corner, corner + 20], dim=1), torch.rand(60, 7).softmax(dim=1)
    padded = torch.cat([scores, torch.zeros(60, 1)], dim=1)
    nms = {'type': 'nms', 'iou_threshold': 0.5}
    expected, labels = multiclass_nms(boxes, padded, 0.1, nms, 30)
    found = select_detections(boxes, scores, 0.1, 0.5, max_detections=30)
    assert torch.equal(found.class_ids, labels)
    torch.testing.assert_close(torch.cat([found.xyxy, found.confidence[:, None]], dim=1), expected)


def test_the_rules_have_defaults():
    rules = DetectionRules()
    assert (rules.score_threshold, rules.iou_threshold, rules.max_detections) == (0.3, 0.5, 100)
    assert not rules.class_agnostic
    assert rules.thresholds(Vocabulary(('cat',))) == 0.3


def test_thresholds_by_other_spellings():
    vocabulary = Vocabulary(('traffic light', 'Caf\u00e9'))
    rules = DetectionRules(0.5, {'Traffic_Light.': 0.25, 'cafe\u0301': 0.75})
    assert rules.thresholds(vocabulary).tolist() == [0.25, 0.75]
    with pytest.raises(InputError, match="class 'traffic light' two thresholds"):
        DetectionRules(0.5, {'traffic light': 0.25, 'Traffic  light': 0.3}).thresholds(vocabulary)


def test_thresholds_of_classes():
    rules = DetectionRules(0.25, {'dog': 0.75, 2: 0.5})
    assert rules.thresholds(Vocabulary(('cat', 'dog', 'cow'))).tolist() == [0.25, 0.75, 0.5]
    with pytest.raises(InputError, match='names class 2, but the vocabulary has 2 classes'):
        rules.thresholds(Vocabulary(('cat', 'dog')))
    with pytest.raises(InputError, match="'dog' is not in"):
        rules.thresholds(Vocabulary(('cat',)))


def test_changed_rules():
    rules = DetectionRules(max_detections=7)
    assert rules.changed(iou_threshold=0.9) == DetectionRules(iou_threshold=0.9, max_detections=7)
    assert rules.changed() == rules
    with pytest.raises(InputError, match=r"unknown detection rule 'iou'.* Rules: score_threshold, "):
        rules.changed(iou=0.5)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('score_threshold', float('nan')),
        ('score_threshold', 2),
        ('score_threshold', '0.5'),
        ('score_threshold', None),
        ('iou_threshold', -1),
        ('iou_threshold', True),
        ('class_thresholds', {'cat': 1.5}),
        ('class_thresholds', 0.5),
        ('class_agnostic', 1),
        ('max_detections', 0),
        ('max_detections', 2.5),
        ('max_detections', True),
    ],
)
def test_rules_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        DetectionRules(**{name: value})
