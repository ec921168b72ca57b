"""Labels of proposed regions by IoU, and the file that keeps them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from clipdense.data.detection.coco import check_coco
from clipdense.data.detection.region_features import RegionFeatures, label_regions
from clipdense.data.detection.store import Regions, RegionStore, StoreFacts, images_digest
from clipdense.utils.errors import InputError

SIZE = (100, 80)
BOXES = {
    1: [[0, 0, 10, 10], [0, 0, 10, 20], [5, 0, 15, 10], [50, 50, 60, 60]],
    2: [[0, 0, 10, 10]],
    3: [],
}


def annotations(objects):
    """Objects as (image, category, x1, y1, x2, y2, crowd)."""
    return check_coco(
        {
            'images': [
                {'id': one, 'width': SIZE[0], 'height': SIZE[1], 'file_name': f'{one}.png'} for one in BOXES
            ],
            'categories': [
                {'id': 5, 'name': 'cat', 'split': 'base'},
                {'id': 6, 'name': 'dog', 'split': 'novel'},
                {'id': 7, 'name': 'car', 'split': 'base'},
            ],
            'annotations': [
                {'id': at, 'image_id': image, 'category_id': category, 'iscrowd': crowd, 'area': 1.0}
                | {'bbox': [x1, y1, x2 - x1, y2 - y1]}
                for at, (image, category, x1, y1, x2, y2, crowd) in enumerate(objects)
            ],
        }
    )


@pytest.fixture
def store(tmp_path):
    facts = StoreFacts(
        'teacher', 'detector', (1.0,), images_digest((one, *SIZE) for one in BOXES), regions=4, width=3
    )
    store = RegionStore.create(tmp_path / 'store', facts, list(BOXES))
    store.write(
        {
            image: Regions(
                np.array(boxes, np.float32).reshape(-1, 4),
                np.full((len(boxes), 3), image, np.float16)
                + np.arange(len(boxes), dtype=np.float16)[:, None],
            )
            for image, boxes in BOXES.items()
        }
    )
    return store


OBJECTS = [(1, 5, 0, 0, 10, 10, 0), (1, 7, 5, 0, 15, 10, 0), (2, 6, 0, 0, 10, 10, 0)]


def test_a_region_has_the_class_that_it_overlaps_most(store):
    """By hand: the same box, half of its union, the second object, and no object."""
    found = label_regions(store, annotations(OBJECTS))
    assert found.class_names == ('cat', 'dog', 'car')
    assert found.labels.tolist() == [0, 0, 2, -1, 1]
    assert_close(found.ious, torch.tensor([1.0, 0.5, 1.0, 0.0, 1.0]))
    assert found.features[:, 0].tolist() == [1, 2, 3, 4, 2]
    assert found.teacher == 'teacher'


@pytest.mark.parametrize('classes', ['base', ['cat', 'car']])
def test_objects_of_other_classes_and_crowds_are_left_out(store, classes):
    found = label_regions(store, annotations([*OBJECTS, (2, 5, 0, 0, 10, 10, 1)]), classes)
    assert found.class_names == ('cat', 'car')
    assert found.labels.tolist() == [0, 0, 1, -1, -1]
    assert found.ious[-1] == 0


def test_what_does_not_belong_together(store, tmp_path):
    other = annotations(OBJECTS)
    other['images'][0]['id'] = 9
    with pytest.raises(InputError, match='belongs to other images'):
        label_regions(store, other)
    with pytest.raises(InputError, match=r"class names not in the annotations: \['cow'\]"):
        label_regions(store, annotations(OBJECTS), ['cow'])


def test_what_is_saved_is_loaded(store, tmp_path):
    found = label_regions(store, annotations(OBJECTS), 'base')
    found.save(tmp_path / 'regions.safetensors')
    again = RegionFeatures.load(tmp_path / 'regions.safetensors')
    assert again.class_names == found.class_names
    assert again.teacher == 'teacher'
    for name in ('features', 'labels', 'ious'):
        assert torch.equal(getattr(again, name), getattr(found, name))
    with pytest.raises(InputError, match=r'use regions\.safetensors'):
        found.save(tmp_path / 'regions.pth')
