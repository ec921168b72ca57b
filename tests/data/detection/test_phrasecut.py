"""PhraseCut's layout: phrases with polygons as captions with boxes and masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from clipdense.data.detection.phrasecut import PhraseCut, read_phrasecut
from clipdense.data.layouts import recognize
from clipdense.data.run_lengths import to_pixels

SQUARE = [[10, 5], [30, 5], [30, 15], [10, 15]]
OTHER = [[40, 20], [50, 20], [50, 30], [40, 30]]
TASKS = [
    {
        'task_id': '7__1',
        'image_id': 7,
        'ann_ids': [1, 2],
        'phrase': 'red stars',
        'instance_boxes': [[10, 5, 20, 10], [40, 20, 10, 10]],
        'Polygons': [[SQUARE], [OTHER]],
        'phrase_structure': {'name': 'stars', 'attributes': ['red'], 'type': 'attribute'},
    },
    {
        'task_id': '7__2',
        'image_id': 7,
        'ann_ids': [1],
        'phrase': 'wall',
        'instance_boxes': [[10, 5, 40, 25]],
        'Polygons': [[SQUARE, OTHER]],
        'phrase_structure': None,
    },
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'images').mkdir()
    Image.new('RGB', (60, 40)).save(tmp_path / 'images/7.jpg')
    (tmp_path / 'refer_val.json').write_text(json.dumps(TASKS))
    return tmp_path


def test_each_phrase_is_a_sample(folder):
    data = PhraseCut(folder / 'refer_val.json', folder / 'images', masks=True)
    assert len(data) == 2
    stars, wall = (data[index]['data_samples'] for index in range(2))
    assert (stars.caption, stars.phrases) == ('red stars', (((0, 9),),))
    assert stars.gt_instances.bboxes.tolist() == [[10, 5, 30, 15], [40, 20, 50, 30]]
    assert stars.gt_instances.masks.masks.sum(axis=(1, 2)).tolist() == [200, 100]
    assert wall.gt_instances.masks.masks.sum() == 300  # an object of two polygons
    assert stars.img_path == wall.img_path == str(folder / 'images/7.jpg')


def test_polygons_become_masks(folder):
    truth, _ = read_phrasecut(folder / 'refer_val.json', folder / 'images')
    mask = to_pixels(truth['annotations'][0]['segmentation'], (40, 60))
    expected = np.zeros((40, 60), np.uint8)
    expected[5:15, 10:30] = 1
    assert np.array_equal(mask, expected)
    assert [one['label'] for one in truth['annotations']] == [0, 0, 0]


def test_sizes_of_a_file(folder):
    (folder / 'img_info.json').write_text(
        json.dumps([{'image_id': 7, 'width': 60, 'height': 40, 'split': 'val'}])
    )
    (folder / 'images/7.jpg').write_bytes(b'not read for its size')
    truth, _ = read_phrasecut(folder / 'refer_val.json', folder / 'images', folder / 'img_info.json')
    assert [(one['width'], one['height']) for one in truth['images']] == [(60, 40)] * 2


def test_size_of_a_turned_image(folder):
    image = Image.new('RGB', (40, 60))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folder / 'images/7.jpg', exif=exif)
    data = PhraseCut(folder / 'refer_val.json', folder / 'images')
    assert data[0]['inputs'].shape == (3, 40, 60)


def test_the_layout_is_recognized(folder):
    found = recognize(folder / 'refer_val.json')
    assert (found.kind, found.layout) == ('phrase masks', 'PhraseCut')
    assert len(found.train.build()) == 2
