"""Class scores and detections against microsoft/GLIP (``glip_scores_tiny``)."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.methods.glip.prompts import positive_map
from clipdense.methods.glip.scores import CandidateRules, Candidates, candidates, class_scores, suppress
from clipdense.utils.errors import InputError


@pytest.fixture(scope='module')
def case(golden):
    tensors, meta = golden('glip_scores_tiny')
    return tensors, meta, positive_map(list(meta['positive_map_label_to_token'].values()), 12)


@pytest.mark.parametrize(
    ('aggregate', 'name'),
    [
        ('mean', 'scores.MEAN'),
        ('max', 'scores.MAX'),
        ('power', 'scores_v2.POWER'),
        ('onehot', 'scores.ONEHOT'),
    ],
)
def test_class_scores(case, aggregate, name):
    tensors, _, positive = case
    found = class_scores(tensors['input.token_probs'], positive, aggregate)
    expected = tensors[f'output.{name}']
    assert_close(
        found, expected[..., :4], atol=1e-6, rtol=1e-6
    )  # the helper of LVIS has further columns of 0


@pytest.mark.parametrize('image', [0, 1])
def test_detections(case, image):
    tensors, meta, positive = case
    given = meta['settings']
    levels = {
        kind: [tensors[f'input.{kind}{level}'][image] for level in range(5)] for kind in ('dot', 'reg', 'ctr')
    }
    anchors = [tensors[f'input.anchors{level}'] for level in range(5)]
    rules = CandidateRules(given['pre_nms_thresh'], given['pre_nms_top_n'])
    found = candidates(
        levels['dot'], levels['reg'], levels['ctr'], anchors, positive, tuple(meta['image']), rules
    )
    found = suppress(found, given['nms_thresh'], max_detections=given['detections_per_img'])
    scores, order = tensors[f'output.det_scores{image}'].sort(descending=True)
    assert_close(found.scores, scores, atol=1e-6, rtol=1e-5)
    assert_close(found.boxes, tensors[f'output.boxes{image}'][order], atol=1e-4, rtol=1e-5)
    assert found.class_ids.tolist() == (tensors[f'output.labels{image}'][order] - 1).tolist()


BOXES = Candidates(
    torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]]),
    torch.tensor([0.9, 0.8, 0.7]),
    torch.tensor([0, 1, 0]),
    torch.tensor([[0, 0], [0, 1], [0, 2]]),
)


@pytest.mark.parametrize(
    ('options', 'kept'),
    [
        ({}, [0.9, 0.8, 0.7]),
        ({'class_agnostic': True}, [0.9, 0.7]),  # the same object under two names
        ({'class_agnostic': True, 'iou_threshold': 0.95}, [0.9, 0.8, 0.7]),
        ({'score_threshold': 0.8}, [0.9, 0.8]),
        ({'score_threshold': torch.tensor([0.8, 0.9])}, [0.9]),
        ({'max_detections': 1}, [0.9]),
    ],
)
def test_suppression(options, kept):
    assert_close(suppress(BOXES, **options).scores, torch.tensor(kept))


@pytest.mark.parametrize('options', [{'threshold': 1.0}, {'per_level': 0}, {'aggregate': 'sum'}])
def test_wrong_rules_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        CandidateRules(**options)


def test_an_image_without_candidates():
    empty = candidates(
        [torch.full((4, 2), -20.0)],
        [torch.zeros(4, 2, 2)],
        [torch.zeros(1, 2, 2)],
        [torch.zeros(4, 4)],
        torch.eye(2),
        (16, 16),
        CandidateRules(),
    )
    assert len(suppress(empty).scores) == 0
