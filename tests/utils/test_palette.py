"""Class colors stay apart, also for people who do not tell red from green.

Vision is simulated here by another model than in the code (Vienot, Brettel & Mollon 1999), and differences
are taken in another space (CIELAB, Euclidean: 2.3 is just noticeable).
"""

from __future__ import annotations

import numpy as np
import pytest

from clipdense.utils.palette import class_palette, text_color

TO_CONES = np.array(
    [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
)
CONES = {
    'normal': np.eye(3),
    'protanopia': np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
    'deuteranopia': np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(colors) -> np.ndarray:
    values = np.asarray(colors, float) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(colors, vision: str) -> np.ndarray:
    """(n, 3) sRGB -> (n, 3) L*, a*, b*."""
    seen = np.linalg.inv(TO_CONES) @ CONES[vision] @ TO_CONES
    ratio = np.clip(linear(colors) @ seen.T, 0, 1) @ TO_XYZ.T / TO_XYZ.sum(axis=1)
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def differences(colors, vision: str) -> np.ndarray:
    """(n, n), infinite on the diagonal."""
    seen = lab(colors, vision)
    table = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    np.fill_diagonal(table, np.inf)
    return table


def test_the_reference_itself():
    np.testing.assert_allclose(lab([[255, 0, 0]], 'normal'), [[53.24, 80.09, 67.20]], atol=0.01)
    for vision in CONES:  # white stays white
        np.testing.assert_allclose(lab([[255, 255, 255]], vision), [[100, 0, 0]], atol=0.01)
    red, green = [[200, 60, 60]], [[110, 110, 50]]
    normal, confused = (
        np.linalg.norm(lab(red, vision) - lab(green, vision)) for vision in ('normal', 'deuteranopia')
    )
    assert confused < 0.25 * normal


@pytest.mark.parametrize('vision', CONES)
@pytest.mark.parametrize(('count', 'least'), [(7, 17), (10, 17), (20, 12), (40, 6), (60, 5)])
def test_all_pairs_are_apart(vision, count, least):
    assert differences(class_palette(count), vision).min() > least


@pytest.mark.parametrize('vision', CONES)
def test_each_color_is_far_from_the_ten_before_it(vision):
    table = differences(class_palette(1000), vision)
    near = [table[at, max(0, at - 10) : at].min() for at in range(1, 1000)]
    assert min(near) > 11
    assert np.diagonal(table, 1)[:59].min() > 19  # neighbors


def test_a_palette_would_fail_that_is_not_made_for_it():
    """The VOC colors of the first 20 classes, for comparison."""
    from clipdense.utils.image_io import voc_palette

    assert differences(voc_palette(21)[1:], 'deuteranopia').min() < 3


def test_a_class_keeps_its_color():
    many = class_palette(2100)
    for count in (0, 1, 20, 21, 33, 150, 1203):
        assert np.array_equal(class_palette(count), many[:count])
    assert np.array_equal(many[2048:], many[:52])
    assert len(np.unique(many, axis=0)) == 2048
    assert [tuple(color) for color in many[[0, 6, 19, 20, 59]].tolist()] == [
        (230, 159, 0),
        (204, 121, 167),
        (90, 15, 75),
        (255, 75, 105),
        (60, 75, 240),
    ]


def test_only_the_background_is_black():
    palette = class_palette(300, background=2)
    assert np.flatnonzero((palette == 0).all(-1)).tolist() == [2]
    assert not (class_palette(2048) == 0).all(-1).any()


@pytest.mark.parametrize('index', range(60))
def test_text_on_a_color_is_readable(index):
    """Contrast of WCAG 2: at least 4.5 to 1."""
    color = class_palette(60)[index]
    light, dark = sorted((float(linear(one) @ TO_XYZ[1]) for one in (color, text_color(color))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5
