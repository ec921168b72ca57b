"""Protocols of detection as data, and a row for any detector."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from clipdense.benchmarks.detection import (
    DETECTION_PROTOCOLS,
    PUBLISHED_DETECTION,
    STATUSES,
    bench_detector,
    find_protocol,
    row,
)
from clipdense.utils.errors import InputError

BOXES = {1: [10, 20, 40, 35], 2: [30, 10, 50, 40]}  # x1, y1, x2, y2 by image


class Detector:
    """Knows where things are by the mean of the image, and gives their masks if asked."""

    def __init__(self, masks=False, shift=0):
        self.masks, self.shift = masks, shift

    def predict(self, images, rules):
        assert rules == 'rules'
        return [self.find(image) for image in images]

    def find(self, image):
        x1, y1, x2, y2 = (side + self.shift for side in BOXES[1 if image.max() == 10 else 2])
        mask = np.zeros((1, *image.shape[:2]), bool)
        mask[0, y1:y2, x1:x2] = True
        return SimpleNamespace(
            xyxy=np.array([[x1, y1, x2, y2]], np.float32),
            confidence=np.array([0.9], np.float32),
            class_ids=np.array([0 if image.max() == 10 else 1]),
            masks=mask if self.masks else None,
        )


@pytest.fixture
def root(tmp_path):
    """Two images of 64 x 48 with a base and a novel object."""
    (tmp_path / 'images').mkdir()
    rows = []
    for index, (x1, y1, x2, y2) in BOXES.items():
        Image.new('RGB', (64, 48), (10 * index,) * 3).save(tmp_path / f'images/{index}.png')
        corners = [x1, y1, x2, y1, x2, y2, x1, y2]
        box = {'bbox': [x1, y1, x2 - x1, y2 - y1], 'segmentation': [corners], 'area': (x2 - x1) * (y2 - y1)}
        rows.append({'id': index, 'image_id': index, 'category_id': index, 'iscrowd': 0, **box})
    data = {
        'images': [{'id': n, 'file_name': f'{n}.png', 'width': 64, 'height': 48} for n in BOXES],
        'categories': [
            {'id': 1, 'name': 'cat', 'split': 'base'},
            {'id': 2, 'name': 'dog', 'split': 'novel'},
        ],
        'annotations': rows,
    }
    (tmp_path / 'a.json').write_text(json.dumps(data))
    return tmp_path


def tiny(**changes):
    return replace(find_protocol('ov_coco'), annotations='a.json', images='images', classes=None, **changes)


def test_a_perfect_detector_and_one_that_misses(root):
    protocol = tiny()
    scores = bench_detector(Detector(), 'rules', protocol, protocol.open(root))
    assert {name: scores[name] for name in protocol.scores} == pytest.approx(
        dict.fromkeys(protocol.scores, 1)
    )
    missed = bench_detector(Detector(shift=8), 'rules', protocol, protocol.open(root))
    assert missed['all/AP50'] == 0


def test_masks(root):
    protocol = tiny(kind='segm', scores=('segm/all/AP50',))
    scores = bench_detector(Detector(masks=True), 'rules', protocol, protocol.open(root))
    assert scores['segm/all/AP50'] > 0.99
    with pytest.raises(InputError, match='the detector returns none'):
        bench_detector(Detector(), 'rules', protocol, protocol.open(root))


def test_a_row_has_the_published_numbers_beside_it():
    scores = {'novel/AP50': 0.27, 'base/AP50': 0.6}
    found = row('ViLD R50', find_protocol('ov_coco'), scores)
    assert found == '| ViLD R50 | OV-COCO 48 / 17 | 27.00 (27.6 [S]) | 60.00 (59.5 [S]) | n/a (51.3 [S]) |'
    assert '(' not in row('mine', find_protocol('voc07'), {'all/AP50': 0.5})


def test_published_numbers_are_of_known_protocols():
    for number in PUBLISHED_DETECTION:
        protocol = DETECTION_PROTOCOLS[number.protocol]
        assert protocol.headline in protocol.scores
        assert number.status in STATUSES
        assert number.source
    with pytest.raises(InputError, match="mean 'ov_lvis'"):
        find_protocol('ov_lvs')
