"""Masks of a detector on data of one's own are scored where every object has one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from clipdense.data.layouts import recognize
from clipdense.evaluation.own_data import OwnData, detection
from clipdense.inference.results import Detections
from clipdense.utils.errors import InputError

BOX = [10, 5, 20, 10]  # x, y, width, height
WHOLE = [[10, 5, 30, 5, 30, 15, 10, 15]]


@pytest.fixture
def data(tmp_path):
    """``data(*segmentations) -> OwnData`` of an image with an object each, in one place."""

    def write(*segmentations):
        Image.new('RGB', (40, 30)).save(tmp_path / 'a.png')
        objects = [
            {'id': number, 'image_id': 1, 'category_id': 1, 'bbox': BOX, 'area': 200, 'iscrowd': 0}
            | ({} if one is None else {'segmentation': one})
            for number, one in enumerate(segmentations, 1)
        ]
        images = [{'id': 1, 'file_name': 'a.png', 'width': 40, 'height': 30}]
        content = {'images': images, 'annotations': objects, 'categories': [{'id': 1, 'name': 'cat'}]}
        (tmp_path / 'a.json').write_text(json.dumps(content))
        return OwnData(recognize(tmp_path / 'a.json', 'boxes'))

    return write


class Found:
    """Finds one cat, with a mask of so many columns of its box."""

    def __init__(self, columns):
        self.columns = columns

    def set_vocabulary(self, vocabulary):
        self.vocabulary = vocabulary

    def stream(self, images, batch_size):
        assert batch_size == 'auto'  # several images at a time where that is faster
        yield from enumerate(self.found(image) for image in images)

    def found(self, image):
        masks = None
        if self.columns is not None:
            masks = np.zeros((1, 30, 40), bool)
            masks[0, 5:15, 10 : 10 + self.columns] = True
        box = np.array([[10.0, 5, 30, 15]], np.float32)
        return Detections(box, np.array([0.9], np.float32), np.array([0]), self.vocabulary, masks, image)


@pytest.mark.parametrize(('columns', 'score'), [(20, 1.0), (11, 1.0), (9, 0.0)])  # of 20: an IoU of .55, .45
def test_masks_are_scored(data, columns, score):
    found = detection(Found(columns), data(WHOLE))
    assert found['all/AP50'] == pytest.approx(1)
    assert found['segm/all/AP50'] == pytest.approx(score)


@pytest.mark.parametrize(('columns', 'objects'), [(None, [WHOLE]), (20, [None]), (20, [None, None])])
def test_without_masks_boxes_are_scored_alone(data, columns, objects):
    found = detection(Found(columns), data(*objects))
    assert not [name for name in found if name.startswith('segm/')]


def test_some_objects_without_a_mask_are_told(data):
    with pytest.warns(UserWarning, match='masks are not scored: 1 of 2 objects have no mask in the data'):
        found = detection(Found(20), data(WHOLE, None))
    assert 'segm/all/AP50' not in found


def test_an_image_that_is_too_large_for_masks(data):
    own = data(WHOLE)

    class Once(Found):
        def found(self, image):
            found = super().found(image)
            self.columns = None
            return found

    two = own.build()
    two.images = [*two.images, *two.images]
    own.build = lambda: two
    with pytest.raises(InputError, match='too many pixels for masks'):
        detection(Once(20), own)
