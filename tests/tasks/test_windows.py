"""Windows cover every pixel, never leave the image, and stand where mmsegmentation puts them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdense.tasks.windows import Slide, Window
from clipdense.utils.errors import InputError


@pytest.mark.parametrize(
    ('size', 'expected'),
    [
        ((80, 104), [(0, 0), (0, 32), (0, 40), (16, 0), (16, 32), (16, 40)]),
        ((64, 64), [(0, 0)]),
        ((64, 65), [(0, 0), (0, 1)]),
        ((64, 96), [(0, 0), (0, 32)]),
    ],
)
def test_places(size, expected):
    windows = Slide(window=64, stride=32).windows(size)
    assert [window[:2] for window in windows] == expected
    assert {(w.bottom - w.top, w.right - w.left) for w in windows} == {(64, 64)}


@pytest.mark.parametrize('size', [(1, 1), (30, 500), (63, 64)])
def test_an_image_narrower_than_a_window_is_taken_as_it_is(size):
    windows = Slide(window=64, stride=32).windows(size)
    assert {window.bottom - window.top for window in windows} == {min(64, size[0])}
    assert windows[-1].right == size[1]


def test_no_window_shows_the_whole_image():
    assert Slide().windows((700, 30)) == [Window(0, 0, 700, 30)]


@pytest.mark.parametrize(
    ('slide', 'scale'), [(Slide(short_side=10**8), 1.0), (Slide(), 1e9), (Slide(), 1e200), (Slide(), 1e308)]
)
def test_an_image_is_not_enlarged_beyond_the_limit(slide, scale):
    with pytest.raises(
        InputError, match=r'an image of 60 x 40 pixels, enlarged .*: reduce short_side or scales'
    ):
        slide.resized((40, 60), 16, scale)
    assert Slide().resized((20_000, 20_000), 16) == (20_000, 20_000)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.data())
def test_every_pixel_is_covered(height, width, window, data):
    stride = data.draw(st.integers(1, window))
    covered = set()
    for top, left, bottom, right in Slide(window=window, stride=stride).windows((height, width)):
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
        covered |= {(y, x) for y in range(top, bottom) for x in range(left, right)}
    assert len(covered) == height * width


@pytest.mark.parametrize(
    ('size', 'short', 'expected'),
    [
        ((375, 500), 336, (336, 448)),
        ((500, 375), 336, (448, 336)),
        ((448, 638), 336, (336, 479)),  # 478.5 goes up, as in mmcv
        ((1, 1), 336, (336, 336)),
        ((1, 5000), 336, (16, 2048)),  # bounded by the long side, padded up to a patch
        ((375, 500), None, (375, 500)),
        ((3, 4), None, (16, 16)),
    ],
)
def test_resized(size, short, expected):
    assert Slide(short_side=short).resized(size, smallest=16) == expected


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'window': 8, 'stride': 9}, 'must not be larger than the window of 8'),
        ({'window': 0}, 'at least 1'),
        ({'batch': 0}, 'at least 1'),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(ValueError, match=message):
        Slide(**fields)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'short_side': 'abc'}, "short_side must be a number of at least 1, got 'abc'"),
        ({'window': 0}, 'window must be a number of at least 1, got 0'),
        ({'scales': ('1',)}, 'scales must be'),
    ],
)
def test_a_slide_names_the_setting(given, message):
    with pytest.raises(InputError, match=message):
        Slide(**given)
