"""Recall of phrases, with numbers worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image

from clipdense.data.checking import check_data
from clipdense.data.detection.grounding import GroundingDetection, read_grounding
from clipdense.data.layouts import recognize
from clipdense.evaluation.detection.phrases import PhraseRecall, boxes_of_phrases, found_at, phrase_recall
from clipdense.evaluation.own_data import OwnData, phrases
from clipdense.inference.results import Detections
from clipdense.utils.errors import InputError

A, B, FAR = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [40.0, 30, 50, 40]
HALF = [0.0, 0, 10, 5]  # of A


@pytest.mark.parametrize(
    ('boxes', 'objects', 'place'),
    [
        ([A], [A], 1),
        ([FAR, B, A], [A], 3),
        ([FAR, B, A], [A, B], 2),  # any object
        ([HALF], [A], 1),  # an IoU of exactly one half
        ([[0, 0, 10, 4.9]], [A], None),
        ([], [A], None),
        ([A], [], None),
    ],
)
def test_the_first_box_that_overlaps(boxes, objects, place):
    made = [torch.tensor(one, dtype=torch.float32).reshape(-1, 4) for one in (boxes, objects)]
    assert found_at(*made) == place


CAPTIONS = ('a cat and two dogs', 'a cat on the grass')


@pytest.fixture
def folder(tmp_path):
    """Two captions of one image; "two dogs" has two boxes, "the grass" none."""
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / '1.png')
    rows = [(1, A, [[0, 5]], 1), (1, B, [[10, 18]], 2), (1, FAR, [[10, 18]], 2), (2, A, [[0, 5]], 1)]
    annotations = [
        {
            'id': number,
            'image_id': image,
            'category_id': kind,
            'bbox': [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            'area': 100,
            'iscrowd': 0,
            'tokens_positive': spans,
        }
        for number, (image, box, spans, kind) in enumerate(rows, 1)
    ]
    images = [
        {'id': number, 'file_name': '1.png', 'width': 64, 'height': 48, 'caption': caption}
        for number, caption in enumerate(CAPTIONS, 1)
    ]
    kinds = [{'id': 1, 'name': 'animals'}, {'id': 2, 'name': 'other'}]
    content = {'images': images, 'annotations': annotations, 'categories': kinds}
    (tmp_path / 'captions.json').write_text(json.dumps(content))
    return tmp_path


def boxes(*listed):
    return torch.tensor(listed, dtype=torch.float32).reshape(-1, 4)


def test_recall(folder):
    """Phrases: a cat (first box), two dogs (second box), a cat (no box)."""
    truth, _ = read_grounding(folder / 'captions.json')
    found = {1: [boxes(A), boxes([0, 20, 5, 25], B)], 2: [boxes()]}
    scores = phrase_recall(truth, found, counts=(1, 2))
    expected = {'R@1': 1 / 3, 'R@2': 2 / 3, 'animals/R@1': 1 / 2, 'animals/R@2': 1 / 2}
    expected |= {'other/R@1': 0, 'other/R@2': 1, 'merged/R@1': 1 / 3, 'merged/R@2': 1 / 3}
    assert scores == pytest.approx(expected)


def test_merged_objects_are_the_box_around_them(folder):
    truth, _ = read_grounding(folder / 'captions.json')
    around = [20.0, 0, 50, 40]
    scores = phrase_recall(truth, {1: [boxes(), boxes(around)]}, counts=(1,))
    assert (scores['R@1'], scores['merged/R@1']) == (0, 0.5)


def test_detections_are_sorted_into_phrases():
    found = boxes_of_phrases(boxes(A, B, FAR), torch.tensor([0.2, 0.9, 0.5]), torch.tensor([1, 1, 0]), 3)
    assert [one.tolist() for one in found] == [[FAR], [B, A], []]


def sample(image, count, *rows):
    listed = [row[0] for row in rows]
    instances = InstanceData(
        bboxes=boxes(*listed),
        scores=torch.tensor([row[1] for row in rows]),
        labels=torch.tensor([row[2] for row in rows], dtype=torch.int64),
    )
    return {'img_id': image, 'phrases': ((),) * count, 'pred_instances': instances}


def test_the_metric_is_the_function(folder):
    data = GroundingDetection(folder / 'captions.json', folder)
    metric = PhraseRecall(counts=(1, 2))
    metric.dataset_meta = data.metainfo
    metric.process(None, [sample(1, 2, (B, 0.5, 1), (A, 0.9, 0), ([0, 20, 5, 25], 0.8, 1)), sample(2, 1)])
    found = {1: [boxes(A), boxes([0, 20, 5, 25], B)], 2: [boxes()]}
    assert metric.evaluate(2) == phrase_recall(data.ground_truth, found, counts=(1, 2))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'counts': ()}, 'counts must be whole numbers'),
        ({'counts': (0,)}, 'counts must be whole numbers'),
        ({'threshold': 0}, 'threshold must be an IoU'),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        PhraseRecall(**options)


def test_what_cannot_be_scored_is_refused(folder):
    truth, _ = read_grounding(folder / 'captions.json')
    with pytest.raises(InputError, match='no phrase of these images has a box'):
        phrase_recall(truth, {})
    with pytest.raises(InputError, match='image 1 has boxes of 1 phrases, but phrase 2 has objects'):
        phrase_recall(truth, {1: [boxes()]})
    with pytest.raises(InputError, match='needs captions with boxes'):
        PhraseRecall().process(None, [{'img_id': 1, 'pred_instances': InstanceData()}])
    metric = PhraseRecall()
    metric.dataset_meta = {}
    with pytest.raises(InputError, match='has a ground_truth'):
        metric.compute_metrics([])


class Found:
    """A detector that finds the cat, and the dogs in its second box."""

    model = None

    def ground(self, image, sentence, **options):
        self.options = options
        rows = [(A, 0.9, 0), ([0, 20, 5, 25], 0.8, 1), (B, 0.7, 1)][: 3 if len(sentence) == 2 else 0]
        return Detections(
            np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
            np.array([row[1] for row in rows], np.float32),
            np.array([row[2] for row in rows], np.int64),
            sentence,
        )


def test_any_detector_on_a_file(folder):
    layout = recognize(folder / 'captions.json')
    assert (layout.kind, layout.layout) == ('phrases', 'captions with boxes')
    detector = Found()
    scores = phrases(detector, OwnData(layout))
    assert (scores['R@1'], scores['R@5'], scores['R@10']) == pytest.approx((1 / 3, 2 / 3, 2 / 3))
    assert detector.options == {'score_threshold': 0.0, 'max_detections': 100}


def test_the_file_can_be_read_as_boxes_too(folder):
    assert recognize(folder / 'captions.json', 'boxes').train.name == 'CocoDetection'


def test_the_file_is_checked(folder):
    report = check_data(folder / 'captions.json')
    assert (report.faults, report.samples) == ([], 2)
    (folder / '1.png').write_bytes(b'')
    assert len(check_data(folder / 'captions.json').faults) == 2


def test_class_names_are_refused(folder):
    with pytest.raises(InputError, match='have no classes: remove --classes'):
        phrases(Found(), OwnData(recognize(folder / 'captions.json'), classes=['cat']))
