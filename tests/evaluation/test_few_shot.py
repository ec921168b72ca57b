"""Fold scores against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.data.segmentation.few_shot import EpisodeSample
from clipdense.evaluation.few_shot import FoldIoU, fold_scores
from clipdense.utils.errors import InputError


def test_scores_by_hand():
    """Class 0: fg 2 / (2 + 1 + 1), bg 4 / 6.  Class 1: fg 0 / 3, bg 5 / 8.  FB: fg 2 / 7, bg 9 / 14."""
    counts = torch.tensor([[[4, 1], [1, 2]], [[5, 2], [1, 0]]])
    scores = fold_scores(counts)
    assert_close(scores.iou, torch.tensor([0.5, 0.0], dtype=torch.float64))
    assert scores.mean_iou == pytest.approx(0.25)
    assert scores.fb_iou == pytest.approx((2 / 7 + 9 / 14) / 2)


def test_a_class_without_episodes_counts_nothing_but_is_in_the_mean():
    counts = torch.tensor([[[0, 0], [0, 4]], [[0, 0], [0, 0]]])
    assert fold_scores(counts).mean_iou == 0.5
    assert fold_scores(counts).fb_iou == 0.5


def sample(class_id, mask, prediction):
    mask, prediction = torch.tensor(mask), torch.tensor(prediction)
    return EpisodeSample('a.jpg', tuple(mask.shape), mask, prediction, class_id)


def test_episodes_of_a_class_are_added_up():
    """Class 7: two episodes, one pixel ignored: fg 1 / 2 in all.  Class 9: 1 / 1."""
    metric = FoldIoU()
    metric.dataset_meta = {'class_ids': (7, 9), 'class_names': [f'class {at}' for at in range(10)]}
    metric.process(None, [sample(7, [[1, 0]], [[1, 0]]), sample(7, [[1, 255]], [[0, 1]])])
    metric.process(None, [sample(9, [[1, 0]], [[1, 0]])])
    found = metric.evaluate(3)
    assert found['mIoU'] == pytest.approx(0.75)
    assert found['iou/class 7'] == pytest.approx(0.5)
    assert found['FB-IoU'] == pytest.approx((2 / 3 + 2 / 3) / 2)  # bg: (1 + 0 + 1) / (1 + 1 + 1)


def test_classes_without_episodes_are_named(monkeypatch):
    lines = []
    monkeypatch.setattr(f'{FoldIoU.__module__}.print_log', lambda line, **_: lines.append(line))
    metric = FoldIoU(class_ids=(7, 8, 9))
    metric.process(None, [sample(8, [[1, 0]], [[1, 0]])])
    assert metric.evaluate(1)['mIoU'] == pytest.approx(1 / 3)
    assert lines == ['classes [7, 9] have no episodes and count as 0 in the mean IoU']


@pytest.mark.parametrize(
    ('meta', 'one', 'message'),
    [
        ({'class_ids': (7,)}, sample(8, [[1]], [[1]]), r'has class 8, which is not in class_ids \(7,\)'),
        ({}, sample(8, [[1]], [[1]]), 'needs class_ids'),
        ({'class_ids': (7,)}, EpisodeSample('a.jpg', (1, 1)), 'no mask or no prediction'),
    ],
    ids=['class', 'no fold', 'no mask'],
)
def test_what_is_no_episode_is_refused(meta, one, message):
    metric = FoldIoU()
    metric.dataset_meta = meta
    with pytest.raises(InputError, match=message):
        metric.process(None, [one])
