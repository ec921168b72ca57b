"""Results are checked when they are made, and can be drawn, written and exported."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipdense.inference.results import Classification, Segmentation
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_mask
from clipdense.vocab.vocabulary import Vocabulary

WORDS = Vocabulary(('sky', 'road', 'car'))
MASK = np.array([[0, 0, 1, 1], [0, 2, 1, 1]])
SCORES = np.array([[0.5, 0.7, 0.9, 0.9], [0.6, 0.4, 0.9, 0.9]], np.float32)


def segmentation(**changes) -> Segmentation:
    fields = {'mask': MASK, 'scores': SCORES, 'vocabulary': WORDS, 'image': Image.new('RGB', (4, 2))}
    return Segmentation(**{**fields, **changes})


def test_shares_are_largest_first_and_sum_to_one():
    assert segmentation().shares() == {'road': 0.5, 'sky': 0.375, 'car': 0.125}


def test_mask_png_holds_the_classes(tmp_path):
    path = segmentation().save(tmp_path / 'mask.png')
    assert np.array_equal(read_mask(path), MASK)


def test_dict_tells_size_share_and_score():
    values = segmentation().to_dict()
    assert (values['height'], values['width']) == (2, 4)
    sky = values['segments'][1]
    assert (sky['class'], sky['class_index'], sky['share'], sky['score']) == ('sky', 0, 0.375, 0.6)


def test_coco_masks_decode_to_the_mask():
    from pycocotools import mask as coco

    results = segmentation().to_coco(image_id=7)
    assert [(result['image_id'], result['category_id']) for result in results] == [(7, 2), (7, 1), (7, 3)]
    for result in results:
        decoded = coco.decode({**result['segmentation'], 'counts': result['segmentation']['counts'].encode()})
        assert np.array_equal(decoded, result['category_id'] - 1 == MASK)


def test_drawing_needs_an_image():
    assert segmentation().draw().width >= 4
    with pytest.raises(InputError, match='pass it'):
        segmentation(image=None).draw()
    assert segmentation(image=None).draw(Image.new('RGB', (4, 2))).width >= 4


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'scores': SCORES[:1]}, 'must be one'),
        ({'mask': MASK + 1}, 'class 3 of 3'),
        ({'mask': MASK - 1}, 'class 1 of 3'),
        ({'image': Image.new('RGB', (2, 4))}, 'differ in size'),
    ],
    ids=['other sizes', 'class out of range', 'negative class', 'image on its side'],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        segmentation(**changes)


def test_top_classes_are_best_first():
    result = Classification(np.array([0.2, 0.5, 0.3]), WORDS)
    assert result.top(2) == [('road', 0.5), ('car', 0.3)]
    assert len(result.top(10)) == 3
    with pytest.raises(ValueError, match='vocabulary of 3'):
        Classification(np.array([1.0]), WORDS)
