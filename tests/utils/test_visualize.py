"""Overlays keep the image where nothing is shown; nothing is too small, too large or too long to draw."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from clipdense.utils.errors import InputError
from clipdense.utils.visualize import distinct_palette, fit, gallery, overlay, wrap

NAMES = ['background', 'cat', 'dog']
COLOURS = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200]], np.uint8)
GREY = (100, 100, 100)
FONT = ImageFont.load_default(12)


def colours_of(image: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in image.getcolors(1 << 24)}


def test_classes_are_blended_and_the_rest_stays():
    mask = np.repeat(np.array([[0, 1], [2, 255]]), 200, 0).repeat(200, 1)
    drawn = overlay(Image.new('RGB', (400, 400), GREY), mask, NAMES, COLOURS, opacity=0.6)
    corners = [drawn.getpixel(place) for place in ((5, 5), (395, 5), (5, 395), (395, 395))]
    assert corners == [GREY, (160, 40, 40), (40, 40, 160), GREY]
    assert drawn.width == 400
    assert drawn.height > 400
    legend = drawn.crop((0, 400, 400, drawn.height))
    assert {(200, 0, 0), (0, 0, 200)} <= colours_of(legend)  # the colours themselves beside the names


@pytest.mark.parametrize(('opacity', 'expected'), [(0, GREY), (1, (200, 0, 0))])
def test_opacity(opacity, expected):
    drawn = overlay(Image.new('RGB', (300, 300), GREY), np.ones((300, 300), int), NAMES, COLOURS, opacity)
    assert drawn.getpixel((0, 0)) == expected


def test_legend_names_what_occurs_largest_first():
    mask = np.full((300, 300), 2)
    mask[:100] = 1
    legend = overlay(Image.new('RGB', (300, 300)), mask, NAMES, COLOURS).crop((0, 300, 300, 340))
    squares = [x for x in range(300) if legend.getpixel((x, 14)) in {(0, 0, 200), (200, 0, 0)}]
    assert legend.getpixel((squares[0], 14)) == (0, 0, 200)
    assert legend.getpixel((squares[-1], 14)) == (200, 0, 0)


@pytest.mark.parametrize('value', [0, 255, -1])
def test_nothing_to_show_is_the_image_alone(value):
    drawn = overlay(Image.new('RGB', (300, 250), GREY), np.full((250, 300), value), NAMES, COLOURS)
    assert (drawn.size, colours_of(drawn)) == ((300, 250), {GREY})


@pytest.mark.parametrize(
    ('size', 'expected'),
    [((1, 1), (260, 240)), ((32, 32), (260, 256)), ((1, 3000), (1660, 3000)), ((3000, 1), (3000, 1))],
)
def test_images_of_any_size(size, expected):
    drawn = overlay(Image.new('RGB', size), np.ones(size[::-1], np.uint8), NAMES, COLOURS)
    assert drawn.width == expected[0]
    assert drawn.height > expected[1]


@pytest.mark.slow
def test_a_very_large_image():
    drawn = overlay(Image.new('RGB', (6000, 4000)), np.ones((4000, 6000), np.uint8), NAMES, COLOURS)
    assert drawn.width == 6000


def test_many_long_names():
    mask = np.arange(100).repeat(100).reshape(100, 100)
    drawn = overlay(
        Image.new('RGB', (100, 100)), mask, [f'a very long name {"x" * 80} {i}' for i in range(100)]
    )
    assert drawn.width >= 260


@pytest.mark.parametrize(
    ('mask', 'names', 'palette', 'opacity', 'message'),
    [
        (np.zeros((3, 4)), NAMES, COLOURS, 0.5, r'mask is \(3, 4\), its image \(4, 3\)'),
        (np.zeros((4, 3)), NAMES, COLOURS[:2], 0.5, '2 colours for 3 classes'),
        (np.zeros((4, 3)), NAMES, COLOURS, 1.5, 'between 0 and 1'),
    ],
    ids=['size', 'colours', 'opacity'],
)
def test_refusals(mask, names, palette, opacity, message):
    with pytest.raises(InputError, match=message):
        overlay(Image.new('RGB', (3, 4)), mask, names, palette, opacity)


def test_gallery_holds_every_image():
    fills = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sizes = [(9, 9), (900, 3), (1, 1)]
    red, green, blue = (Image.new('RGB', *look) for look in zip(sizes, fills, strict=True))
    sheet = gallery([[(red, 'red'), (green, 'green ' * 50)], [], [(blue, '')]], tile=96, title='Colours')
    assert set(fills) <= colours_of(sheet)
    assert sheet.width == 3 * 6 + 2 * 96


def test_an_empty_gallery_is_refused():
    with pytest.raises(InputError, match='at least one image'):
        gallery([[], []])


TEXTS = ['', 'a', 'some words', 'Donaudampfschifffahrt' * 9, '日本 ' * 40, 'line\nbreak ' * 30]


@pytest.mark.parametrize('text', TEXTS)
@pytest.mark.parametrize('width', [20, 90])
def test_text_fits(text, width):
    assert FONT.getlength(fit(text.replace('\n', ' '), width, FONT)) <= width
    lines = wrap(text, width, FONT)
    assert len(lines) <= 3
    assert all(FONT.getlength(line) <= width for line in lines)


def test_short_text_is_left_alone():
    assert fit('a cat', 300, FONT) == 'a cat'
    assert wrap('a cat  on\na mat', 300, FONT) == ['a cat on a mat']
    assert wrap('one two three four five', FONT.getlength('one two'), FONT, most=2)[-1].endswith('…')


def test_vivid_colours_differ():
    assert len(np.unique(distinct_palette(60), axis=0)) == 60
    assert distinct_palette(0).shape == (0, 3)
