"""Masks in every layout are the same pixels, and junk is an error of one line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask

from clipdense.data.run_lengths import check_mask, has_mask, mask_area, to_pixels, to_run_lengths
from clipdense.utils.errors import InputError


def tried(call):
    """The result, or the error message of one line."""
    try:
        return call()
    except InputError as error:
        return str(error)


def runs_of(pixels):
    """Run lengths down the columns, written out."""
    counts, value, length = [], 0, 0
    for pixel in pixels.T.flatten().tolist():
        if pixel != value:
            counts, value, length = [*counts, length], pixel, 0
        length += 1
    return [*counts, length]


@settings(deadline=None, max_examples=60)
@given(
    arrays.arrays(
        np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)
    )
)
def test_all_layouts_are_the_same_pixels(pixels):
    coded = coco_mask.encode(np.asfortranarray(pixels))
    size = list(pixels.shape)
    for counts in (coded['counts'], coded['counts'].decode(), runs_of(pixels)):
        mask = {'size': size, 'counts': counts}
        check_mask(mask, 'a mask', pixels.shape)
        assert (to_pixels(mask, pixels.shape) == pixels).all()
        assert to_run_lengths(mask, pixels.shape)['counts'].encode() == coded['counts']
        assert mask_area(mask, pixels.shape) == pixels.sum()


JUNK = st.one_of(
    st.text(max_size=30),
    st.binary(max_size=30),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=3), st.none()), max_size=6),
    st.lists(st.integers(0, 60), max_size=6),
)


@settings(deadline=None, max_examples=100)
@given(JUNK, st.sampled_from([[6, 10], [10, 6], [10**9, 10**9], [], None, 'ab', [6.0, 10.0]]))
def test_junk_is_refused_or_decoded(counts, size):
    mask = {'size': size, 'counts': counts}
    refusal = tried(lambda: check_mask(mask, 'a mask', (6, 10)))
    if refusal is not None:
        assert '\n' not in refusal
        return
    assert to_pixels(mask, (6, 10)).shape == (6, 10)
    assert mask_area(mask, (6, 10)) == to_pixels(mask, (6, 10)).sum()


NUMBER = st.one_of(st.integers(-30, 30), st.floats(), st.text(max_size=2), st.none())


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(NUMBER, st.lists(NUMBER, max_size=9)), min_size=1, max_size=4))
def test_polygons_are_refused_or_drawn(polygons):
    refusal = tried(lambda: check_mask(polygons, 'a mask', (6, 10)))
    if refusal is not None:
        assert '\n' not in refusal
        return
    assert to_pixels(polygons, (6, 10)).shape == (6, 10)


@pytest.mark.parametrize('missing', [{}, {'segmentation': None}, {'segmentation': []}], ids=str)
def test_missing_masks_are_missing(missing):
    assert not has_mask(missing)
    assert has_mask({'segmentation': {'size': [1, 1], 'counts': [1]}})
