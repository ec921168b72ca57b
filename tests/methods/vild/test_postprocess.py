"""From scored boxes to detections."""

from __future__ import annotations

import pytest
import torch

from clipdense.methods.vild.postprocess import select_detections, threshold_of_each_class

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
SCORES = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.2, 0.3]])


def listed(found):
    return [
        (int(box[0]), int(box[3]), class_id)
        for box, class_id in zip(found.boxes.tolist(), found.class_ids.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'score_threshold': 0.25}, [(0, 10, 0), (0, 9, 1), (50, 60, 1)]),
        ({'score_threshold': 0.25, 'class_agnostic': True}, [(0, 10, 0), (50, 60, 1)]),
        ({'score_threshold': 0.25, 'iou_threshold': 0.95}, [(0, 10, 0), (0, 9, 0), (0, 9, 1), (50, 60, 1)]),
        ({'score_threshold': 0.25, 'most': 1}, [(0, 10, 0)]),
        ({'score_threshold': 0.95}, []),
        ({'candidates': 2, 'iou_threshold': 0.99}, [(0, 10, 0), (0, 9, 0)]),
        ({'score_threshold': threshold_of_each_class(0.0, {0: 0.85, 1: 0.5}, 2)}, [(0, 10, 0), (0, 9, 1)]),
    ],
    ids=['per class', 'agnostic', 'overlap', 'most', 'nothing', 'candidates', 'threshold of a class'],
)
def test_rules(options, expected):
    assert listed(select_detections(BOXES, SCORES, **options)) == expected


def test_equal_to_mmdet():
    """Its multiclass suppression, class-agnostic boxes spread over all classes."""
    from mmdet.models.layers import multiclass_nms

    corner = torch.rand(60, 2) * 50
    boxes, scores = torch.cat([corner, corner + 20], dim=1), torch.rand(60, 7).softmax(dim=1)
    padded = torch.cat([scores, torch.zeros(60, 1)], dim=1)
    nms = {'type': 'nms', 'iou_threshold': 0.5}
    expected, labels = multiclass_nms(boxes, padded, 0.1, nms, 30)
    found = select_detections(boxes, scores, 0.1, 0.5, most=30)
    assert torch.equal(found.class_ids, labels)
    torch.testing.assert_close(torch.cat([found.boxes, found.scores[:, None]], dim=1), expected)
