"""Two segmentations side by side: counts by hand, and what cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipdense.inference.comparison import Agreement, Comparison
from clipdense.inference.results import Segmentation
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

NAMES = Vocabulary(('car', 'road', 'tree'))


def segmentation(mask, vocabulary=NAMES):
    mask = np.array(mask, np.int32)
    image = Image.new('RGB', mask.shape[::-1])
    return Segmentation(mask, np.ones(mask.shape, np.float32), vocabulary, image)


ONE, OTHER = [[0, 0, 1], [1, 1, 1]], [[0, 1, 1], [1, 1, 0]]


def agreement(first=(2, 4, 0), second=(2, 4, 0), both=(1, 3, 0), names=('car', 'road', 'tree')):
    return Agreement(names, *(np.array(part) for part in (first, second, both)))


def test_agreement_is_counted():
    found = Comparison(segmentation(ONE), segmentation(OTHER), ('a', 'b'))
    assert found.agreement.total == pytest.approx(4 / 6)
    assert found.agreement.by_class() == {'car': pytest.approx(1 / 3), 'road': pytest.approx(3 / 5)}
    assert repr(found) == 'Comparison(a and b: 67% of the pixels agree)'


def test_a_segmentation_agrees_with_itself():
    found = Comparison(segmentation(ONE), segmentation(ONE)).agreement
    assert (found.total, found.by_class()) == (1.0, {'car': 1.0, 'road': 1.0})


def test_images_are_summed_by_pixels():
    found = agreement() + agreement((0, 0, 2), (0, 0, 2), (0, 0, 2))
    assert found.total == pytest.approx(6 / 8)
    assert found.to_dict()['classes'][2] == {'class': 'tree', 'agreement': 1.0, 'first': 0.25, 'second': 0.25}


def test_the_drawing_has_both_and_one_legend():
    one, other = segmentation(ONE), segmentation(OTHER)
    drawn, single = Comparison(one, other, ('a', 'b')).draw(), one.draw(legend=False)
    assert drawn.width >= 2 * single.width
    assert drawn.height > single.height


BAD = {
    'another size': (lambda: Comparison(segmentation(ONE), segmentation([[0]])), 'have the sizes'),
    'other names': (
        lambda: Comparison(segmentation(ONE), segmentation(ONE, Vocabulary(('a', 'b', 'c')))),
        'different class names',
    ),
    'one label': (
        lambda: Comparison(segmentation(ONE), segmentation(ONE), ('a',)),
        'labels must be two texts',
    ),
    'a text': (lambda: Comparison(segmentation(ONE), segmentation(ONE), 'ab'), 'labels must be two texts'),
    'too few counts': (lambda: agreement(first=(1, 2)), 'first must have shape'),
    'more in both': (lambda: agreement(both=(3, 3, 0)), 'both must be from 0'),
    'negative': (lambda: agreement(both=(-1, 3, 0)), 'both must be from 0'),
    'other pixels': (lambda: agreement(first=(2, 5, 0)), 'first has 7 pixels, second 6'),
    'other classes': (lambda: agreement() + agreement(names=('a', 'b', 'c')), 'different class names'),
}


@pytest.mark.parametrize(('make', 'said'), BAD.values(), ids=BAD)
def test_what_cannot_be_compared(make, said):
    with pytest.raises(InputError, match=said):
        make()
