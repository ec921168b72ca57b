"""Overlap of phrases, with numbers worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image

from clipdense.data.detection.phrasecut import PhraseCut
from clipdense.data.layouts import recognize
from clipdense.evaluation.detection.phrase_masks import Overlap, PhraseMasks, PhraseObjects, overlap, summary
from clipdense.evaluation.own_data import OwnData, phrase_masks
from clipdense.inference.results import Detections
from clipdense.utils.errors import InputError

SIZE = (20, 40)


def mask(*boxes):
    """(H, W) of boxes x1, y1, x2, y2."""
    found = np.zeros(SIZE, bool)
    for x1, y1, x2, y2 in boxes:
        found[y1:y2, x1:x2] = True
    return found


def polygon(x1, y1, x2, y2):
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


LEFT, RIGHT, LOW = (0, 0, 10, 10), (10, 0, 20, 10), (0, 10, 10, 20)


@pytest.fixture
def folder(tmp_path):
    """Two phrases of an image: "red stars" of two objects, "wall" of one."""
    Image.new('RGB', SIZE[::-1]).save(tmp_path / '1.jpg')
    tasks = [
        ('red stars', [LEFT, RIGHT]),
        ('wall', [LOW]),
    ]
    content = [
        {
            'task_id': f'1__{number}',
            'image_id': 1,
            'phrase': phrase,
            'instance_boxes': [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes],
            'Polygons': [[polygon(*box)] for box in boxes],
        }
        for number, (phrase, boxes) in enumerate(tasks)
    ]
    (tmp_path / 'refer.json').write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ('found', 'objects', 'common', 'union'),
    [
        ([LEFT], [LEFT], 100, 100),
        ([LEFT, RIGHT], [LEFT], 100, 200),
        ([LEFT], [LEFT, RIGHT, LOW], 100, 300),
        ([(0, 0, 20, 5)], [LEFT, RIGHT], 100, 200),  # parts of both
        ([LEFT, LEFT], [LEFT], 100, 100),  # counted once
        ([], [LEFT], 0, 100),
        ([LOW], [LEFT], 0, 200),
    ],
)
def test_overlap_of_the_joined_masks(found, objects, common, union):
    masks = [
        torch.tensor(np.array([mask(one) for one in part]).reshape(-1, *SIZE)) for part in (found, objects)
    ]
    assert overlap(*masks) == (common, union)


def test_summary():
    """IoUs of 1, 0.6, 0.5 and 0; an IoU of exactly a threshold does not count, as in the official code."""
    scores = summary([Overlap(10, 10), Overlap(6, 10), Overlap(50, 100), Overlap(0, 80)])
    expected = {'mIoU': 2.1 / 4, 'cIoU': 66 / 200, 'Pr@0.5': 0.5, 'Pr@0.7': 0.25, 'Pr@0.9': 0.25}
    assert scores == pytest.approx(expected)


def sample(image, *rows):
    instances = InstanceData(
        masks=torch.from_numpy(np.array([mask(*boxes) for boxes, _ in rows]).reshape(-1, *SIZE)),
        scores=torch.tensor([score for _, score in rows]),
        labels=torch.zeros(len(rows), dtype=torch.int64),
    )
    return {'img_id': image, 'phrases': ((),), 'pred_instances': instances}


def test_metric(folder):
    """ "red stars": the left one alone, since the right one scores too little; "wall": nothing."""
    data = PhraseCut(folder / 'refer.json', folder)
    metric = PhraseMasks(score_threshold=0.5)
    metric.dataset_meta = data.metainfo
    metric.process(None, [sample(0, ([LEFT], 0.5), ([RIGHT], 0.4))])
    metric.process(None, [sample(1)])
    expected = {'mIoU': 0.25, 'cIoU': 100 / 300, 'Pr@0.5': 0, 'Pr@0.7': 0, 'Pr@0.9': 0}
    assert metric.evaluate(2) == pytest.approx(expected)


class Grounds:
    """Finds LEFT for each sentence, with a mask or without."""

    def __init__(self, masks=True):
        self.masks, self.asked = masks, []

    def ground(self, image, sentence, **options):
        self.asked.append((sentence.text, options))
        masks = np.array([mask(LEFT)]) if self.masks else None
        box = np.array([LEFT], np.float32)
        return Detections(box, np.array([0.9], np.float32), np.array([0]), sentence, masks, image)


def test_own_data(folder):
    detector = Grounds()
    found = phrase_masks(detector, OwnData(recognize(folder / 'refer.json')))
    assert found == pytest.approx({'mIoU': 0.25, 'cIoU': 100 / 400, 'Pr@0.5': 0, 'Pr@0.7': 0, 'Pr@0.9': 0})
    assert [text for text, _ in detector.asked] == ['red stars', 'wall']
    assert detector.asked[0][1]['score_threshold'] == 0.3


def test_a_detector_without_masks(folder):
    with pytest.raises(InputError, match=r'gives no masks: .* GLIPv2 trained with the objective masks'):
        phrase_masks(Grounds(masks=False), OwnData(recognize(folder / 'refer.json')))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'thresholds': (1.5,)}, 'thresholds must be between 0 and 1'),
        ({'thresholds': 0.5}, 'thresholds must be between 0 and 1'),
        ({'score_threshold': -1}, 'score_threshold must be between 0 and 1'),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        PhraseMasks(**options)


def test_masks_of_another_size(folder):
    objects = PhraseObjects(PhraseCut(folder / 'refer.json', folder).ground_truth)
    with pytest.raises(InputError, match=r'image 0 has \(20, 40\) pixels, its masks \(40, 20\)'):
        objects.overlaps(0, torch.zeros(1, 40, 20, dtype=torch.bool), torch.zeros(1))


def test_no_phrases():
    with pytest.raises(InputError, match='no phrase of these images has a mask'):
        summary([])


def test_captions_without_masks_are_refused(folder):
    data = PhraseCut(folder / 'refer.json', folder)
    metric = PhraseMasks()
    metric.dataset_meta = data.metainfo
    without = sample(0)
    without['pred_instances'] = InstanceData(scores=torch.zeros(1), labels=torch.zeros(1))
    with pytest.raises(InputError, match='gives no masks'):
        metric.process(None, [without])
    with pytest.raises(InputError, match='PhraseMasks needs phrases with masks'):
        metric.process(None, [{'img_id': 0, 'pred_instances': InstanceData()}])
