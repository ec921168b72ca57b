"""Label tables against the numbers of the published scripts, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from clipdense.data.segmentation.published import labels
from clipdense.vocab.class_names import CLASS_NAMES

TABLES = {
    # value in the file: class
    'coco_stuff': (labels.coco_stuff, {0: 0, 10: 10, 12: 11, 26: 24, 89: 79, 91: 80, 181: 170, 255: 255}),
    'coco_object': (labels.coco_object, {0: 1, 10: 11, 12: 12, 26: 25, 89: 80, 91: 0, 181: 0, 255: 0}),
    'cityscapes': (
        labels.cityscapes,
        {0: 255, 6: 255, 7: 0, 9: 255, 11: 2, 24: 11, 26: 13, 33: 18, 255: 255},
    ),
    'context': (labels.context, {0: 0, 1: 0, 2: 1, 284: 37, 458: 59, 459: 0}),
    'ade20k_full': (labels.ade20k_full, {0: 65535, 2978: 0, 312: 1, 3148: 846, 1: 65535}),
}


@pytest.mark.parametrize(('make', 'expected'), TABLES.values(), ids=TABLES)
def test_tables(make, expected):
    table = make()
    assert {value: int(table[value]) for value in expected} == expected


@pytest.mark.parametrize(
    ('make', 'classes'),
    [
        (labels.coco_stuff, 171),
        (labels.coco_object, 81),
        (labels.cityscapes, 19),
        (labels.context, 60),
        (labels.ade20k_full, 847),
    ],
)
def test_every_class_has_a_value(make, classes):
    found = set(make().tolist()) - {labels.UNKNOWN, 255 if classes < 256 else 65535}
    assert found == set(range(classes))


def test_persons_are_persons():
    assert CLASS_NAMES['context59'][labels.context()[284] - 1] == 'person'
    assert CLASS_NAMES['cityscapes'][labels.cityscapes()[24]] == 'person'
    assert CLASS_NAMES['coco_stuff'][labels.coco_stuff()[0]] == 'person'


@pytest.mark.parametrize('value', [11, 90, 182, 254])
def test_labels_that_coco_does_not_have(value):
    with pytest.raises(ValueError, match=rf'does not define: {value} \(2 pixels\)'):
        labels.relabel(np.array([[0, value], [value, 1]]), labels.coco_stuff())


def test_labels_beyond_the_table():
    with pytest.raises(ValueError, match=r'-1 \(1 pixels\), 460 \(1 pixels\)'):
        labels.relabel(np.array([460, 2, -1]), labels.context())
