"""Settings that every segmenter has: what is refused, and what a model keeps."""

from __future__ import annotations

import pytest

from clipdense.tasks.options import SegmentationOptions
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError

OWN = Slide(short_side=48, window=32, stride=16, scales=(0.5, 1.0), flip=True)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'background_threshold': 1.5}, 'background_threshold must be a number between 0 and 1, got 1.5'),
        ({'area_threshold': '0.1'}, "area_threshold must be a number between 0 and 1, got '0.1'"),
        ({'window': '5'}, "window must be a whole number of at least 0, got '5'"),
        ({'short_side': -1}, 'short_side must be a whole number of at least 0, got -1'),
        ({'stride': 2.5}, 'stride must be a whole number of at least 1, got 2.5'),
        ({'scales': 1.0}, 'scales must be positive numbers'),
        ({'scales': (1, -1)}, 'scales must be positive numbers'),
        ({'scales': ()}, 'scales must be positive numbers'),
        ({'refine': 'yes'}, "refine must be True or False, got 'yes'"),
    ],
    ids=str,
)
def test_refusals(given, message):
    with pytest.raises(InputError, match=message):
        SegmentationOptions(**given)


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, OWN),
        ({'short_side': 64}, Slide(64, window=32, stride=16, scales=(0.5, 1.0), flip=True)),
        ({'window': 24}, Slide(48, window=24, stride=12, scales=(0.5, 1.0), flip=True)),
        ({'window': 0}, Slide(48, scales=(0.5, 1.0), flip=True)),
        ({'stride': 8}, Slide(48, window=32, stride=8, scales=(0.5, 1.0), flip=True)),
        ({'scales': [1]}, Slide(48, window=32, stride=16, scales=(1,), flip=True)),
        ({'flip': False}, Slide(48, window=32, stride=16, scales=(0.5, 1.0))),
    ],
    ids=str,
)
def test_a_model_keeps_what_is_not_given(given, expected):
    assert SegmentationOptions(**given).slide(OWN) == expected
