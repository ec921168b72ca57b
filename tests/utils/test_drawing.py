"""Overlays keep the image where nothing is shown; nothing is too small, too large or too long to draw."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipdense.utils.drawing import draw_boxes, gallery, overlay
from clipdense.utils.errors import InputError
from clipdense.utils.palette import class_palette

NAMES = ['background', 'cat', 'dog']
COLORS = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200]], np.uint8)
GRAY = (100, 100, 100)


def colors_of(image: Image.Image) -> set[tuple[int, ...]]:
    return {color for _, color in image.getcolors(1 << 24)}


def test_classes_are_blended_and_the_rest_stays():
    mask = np.repeat(np.array([[0, 1], [2, 255]]), 200, 0).repeat(200, 1)
    drawn = overlay(Image.new('RGB', (400, 400), GRAY), mask, NAMES, COLORS, opacity=0.6)
    corners = [drawn.getpixel(place) for place in ((5, 5), (395, 5), (5, 395), (395, 395))]
    assert corners == [GRAY, (160, 40, 40), (40, 40, 160), GRAY]
    assert drawn.width == 400
    assert drawn.height > 400
    legend = drawn.crop((0, 400, 400, drawn.height))
    assert {(200, 0, 0), (0, 0, 200)} <= colors_of(legend)  # the colors themselves beside the names


@pytest.mark.parametrize(('opacity', 'expected'), [(0, GRAY), (1, (200, 0, 0))])
def test_opacity(opacity, expected):
    drawn = overlay(Image.new('RGB', (300, 300), GRAY), np.ones((300, 300), int), NAMES, COLORS, opacity)
    assert drawn.getpixel((0, 0)) == expected


def test_legend_names_what_occurs_largest_first():
    mask = np.full((300, 300), 2)
    mask[:100] = 1
    legend = overlay(Image.new('RGB', (300, 300)), mask, NAMES, COLORS).crop((0, 300, 300, 340))
    squares = [x for x in range(300) if legend.getpixel((x, 14)) in {(0, 0, 200), (200, 0, 0)}]
    assert legend.getpixel((squares[0], 14)) == (0, 0, 200)
    assert legend.getpixel((squares[-1], 14)) == (200, 0, 0)


@pytest.mark.parametrize('value', [0, 255, -1])
def test_nothing_to_show_is_the_image_alone(value):
    drawn = overlay(Image.new('RGB', (300, 250), GRAY), np.full((250, 300), value), NAMES, COLORS)
    assert (drawn.size, colors_of(drawn)) == ((300, 250), {GRAY})


@pytest.mark.parametrize(
    ('size', 'side', 'expected'),
    [
        ((1, 1), 512, (512, 512)),
        ((64, 64), 512, (512, 512)),
        ((100, 50), 512, (500, 250)),
        ((257, 20), 512, (257, 20)),
        ((32, 32), 224, (224, 224)),
        ((1, 3000), 512, (880, 3000)),  # the legend is wider than the image
        ((3000, 1), 512, (3000, 1)),
    ],
)
def test_small_images_are_enlarged(size, side, expected):
    drawn = overlay(Image.new('RGB', size), np.ones(size[::-1], np.uint8), NAMES, COLORS, side=side)
    assert drawn.width == expected[0]
    assert drawn.height > expected[1]
    alone = overlay(Image.new('RGB', size), np.ones(size[::-1], int), NAMES, COLORS, legend=False, side=side)
    factor = max(1, side // max(size))
    assert alone.size == (size[0] * factor, size[1] * factor)


@pytest.mark.parametrize(('side', 'width'), [(300, 1), (600, 2), (2000, 5)])
def test_outlines_grow_with_the_image(side, width):
    """Both sides of a border have the full color, so many pixels wide."""
    mask = np.full((10, side), 1)
    mask[:, side // 2 :] = 2
    drawn = np.asarray(overlay(Image.new('RGB', (side, 10), GRAY), mask, NAMES, COLORS, opacity=0.6))[5]
    solid = np.flatnonzero((drawn == [200, 0, 0]).all(-1) | (drawn == [0, 0, 200]).all(-1))
    assert solid.tolist() == list(range(side // 2 - width, side // 2 + width))


def test_the_background_has_no_outline():
    mask = np.zeros((300, 300), int)
    mask[100:200, 100:200] = 1
    drawn = np.asarray(overlay(Image.new('RGB', (300, 300), GRAY), mask, NAMES, COLORS, legend=False))
    assert (drawn[mask == 0] == GRAY).all()
    assert (drawn[100, 100:200] == (200, 0, 0)).all()


@pytest.mark.parametrize(
    ('side', 'classes'), [(64, 1), (64, 5), (64, 25), (64, 60), (640, 5), (640, 60), (1500, 25)]
)
def test_the_legend_grows_with_the_image_and_holds_every_class(side, classes):
    mask = np.arange(side * side).reshape(side, side) % classes
    names = [f'class {number}' for number in range(classes)]
    drawn = np.asarray(overlay(Image.new('RGB', (side, side)), mask, names))
    legend = drawn[max(side, 512) :] if side > 64 else drawn[512:]
    colors = class_palette(classes)
    found = [(legend == color).all(-1) for color in colors]
    assert all(square.any() for square in found)
    heights = {int(square.any(axis=1).sum()) for square in found}
    assert min(heights) >= max(9, max(side, 512) // 34 * 0.7 - 2)


@pytest.mark.slow
def test_a_very_large_image():
    drawn = overlay(Image.new('RGB', (6000, 4000)), np.ones((4000, 6000), np.uint8), NAMES, COLORS)
    assert drawn.width == 6000


def test_many_long_names():
    mask = np.arange(100).repeat(100).reshape(100, 100)
    drawn = overlay(
        Image.new('RGB', (100, 100)), mask, [f'a very long name {"x" * 80} {i}' for i in range(100)]
    )
    assert drawn.width == 500
    assert drawn.height < 3000


@pytest.mark.parametrize(
    ('mask', 'names', 'palette', 'opacity', 'message'),
    [
        (np.zeros((3, 4)), NAMES, COLORS, 0.5, r'mask size \(3, 4\) differs from image size \(4, 3\)'),
        (np.zeros((4, 3)), NAMES, COLORS[:2], 0.5, '2 colors for 3 classes'),
        (np.zeros((4, 3)), NAMES, COLORS, 1.5, 'between 0 and 1'),
    ],
    ids=['size', 'colors', 'opacity'],
)
def test_refusals(mask, names, palette, opacity, message):
    with pytest.raises(InputError, match=message):
        overlay(Image.new('RGB', (3, 4)), mask, names, palette, opacity)


def test_gallery_holds_every_image():
    fills = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sizes = [(9, 9), (900, 3), (1, 1)]
    red, green, blue = (Image.new('RGB', *look) for look in zip(sizes, fills, strict=True))
    sheet = gallery([[(red, 'red'), (green, 'green ' * 50)], [], [(blue, '')]], tile=96, title='Colors')
    assert set(fills) <= colors_of(sheet)
    assert sheet.width == 3 * 6 + 2 * 96


def test_gallery_leaves_images_of_the_right_width_as_they_are():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (150, 96, 3), np.uint8))
    sheet = gallery([[(image, 'a')]], tile=96)
    assert np.array_equal(np.asarray(sheet.crop((6, 6, 102, 156))), np.asarray(image))


def test_an_empty_gallery_is_refused():
    with pytest.raises(InputError, match='at least one image'):
        gallery([[], []])


ROOM = Image.new('RGB', (640, 480), GRAY)


def changed(box: list[float], name: str, note: str = '') -> np.ndarray:
    """(H, W) where a label has the color of its box."""
    drawn = np.asarray(draw_boxes(ROOM, np.array([box]), [name], np.array([4]), notes=[note]))
    assert drawn.shape == (480, 640, 3)
    return (drawn == class_palette(5)[4]).all(-1)


@pytest.mark.parametrize(
    'box',
    [[300, 200, 400, 300], [0, 0, 640, 480], [630, 0, 640, 5], [600, 475, 640, 480], [0, 470, 3, 480]],
    ids=['middle', 'everything', 'top right', 'bottom right', 'bottom left'],
)
@pytest.mark.parametrize('name', ['cat', 'a very long name ' * 20], ids=['short', 'long'])
def test_a_label_stays_in_the_image(box, name):
    label, bare = changed(box, name, '98%'), changed(box, '', '')
    wide = (label & ~bare).sum(axis=1)  # of each row; text leaves gaps in it
    assert 15 <= (wide > 20).sum() <= 30
    assert wide.max() <= 640
    rows = np.flatnonzero(wide > 20)
    assert rows[0] >= 0
    assert abs(rows.mean() - np.clip((box[1] + box[3]) / 2, 0, 480)) < 260


def test_labels_avoid_each_other():
    boxes = np.array([[100.0, 200, 300, 300]] * 2)
    drawn = np.asarray(draw_boxes(ROOM, boxes, ['cat', 'dog'], np.array([0, 1])))
    first, second = ((drawn == color).all(-1).sum() for color in class_palette(2))
    assert first > 300
    assert second > 300


def test_masks_of_boxes_are_blended_with_an_outline():
    masks = np.zeros((1, 480, 640), bool)
    masks[0, 100:200, 100:200] = True
    drawn = draw_boxes(ROOM, np.array([[300.0, 300, 310, 310]]), ['cat'], np.array([0]), masks, opacity=0.4)
    color = class_palette(1)[0]
    assert drawn.getpixel((100, 150)) == tuple(color)
    blend = np.round(0.4 * color.astype(float) + 0.6 * 100)
    assert np.abs(np.array(drawn.getpixel((150, 150))) - blend).max() <= 1
    assert drawn.getpixel((250, 150)) == GRAY


def test_no_boxes():
    drawn = draw_boxes(ROOM, np.zeros((0, 4)), [], np.zeros(0, int))
    assert colors_of(drawn) == {GRAY}
