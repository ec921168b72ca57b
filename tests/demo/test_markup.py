"""HTML of results: names are escaped, colors are those of the drawings."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipdense.demo.files import drawn, write_files
from clipdense.demo.markup import heading, legend, message, point_scores
from clipdense.demo.points import BoxPoints
from clipdense.inference.results import Detections, Segmentation
from clipdense.vocab.vocabulary import Vocabulary

EVIL = '<img src=x onerror=alert(1)>'


@pytest.fixture
def mask():
    values = np.zeros((10, 20), np.int32)
    values[:, 5:] = 1
    return Segmentation(
        values, np.full((10, 20), 0.5), Vocabulary((EVIL, 'cat', 'dog')), Image.new('RGB', (20, 10))
    )


@pytest.fixture
def boxes():
    found = np.array([[0, 0, 10, 10], [5, 0, 15, 10.0]])
    return Detections(
        found,
        np.array([0.9, 0.4]),
        np.array([1, 0]),
        Vocabulary((EVIL, 'cat')),
        None,
        Image.new('RGB', (20, 10)),
    )


def test_legend_of_a_mask(mask):
    html = legend(mask)
    assert html.index('cat') < html.index('onerror')  # largest first
    assert ('75%' in html, '25%' in html, 'dog' in html) == (True, True, False)
    assert '#e69f00' in html


def test_legend_of_boxes(boxes):
    assert legend(boxes).count('<li>') == 2
    assert 'nothing found' in legend(
        Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), Vocabulary(('a',)))
    )


@pytest.mark.parametrize(('x', 'scores'), [(0.1, [(1, 0.9)]), (0.4, [(1, 0.9), (0, 0.4)]), (0.9, [])])
def test_boxes_at_a_point(boxes, x, scores):
    assert BoxPoints.of(boxes).at(x, 0.5).scores == scores


def test_texts_are_escaped(mask, boxes):
    pieces = [legend(mask), legend(boxes), point_scores(BoxPoints.of(boxes).at(0.4, 0.5))]
    pieces += [heading(EVIL), message(EVIL, 'error')]
    assert all('&lt;img' in piece and '<img' not in piece for piece in pieces)


def test_long_lists_and_names_are_shortened():
    names = tuple(f'{index} ' + 'long ' * 30 for index in range(300))
    values = np.arange(300, dtype=np.int32).reshape(15, 20)
    html = legend(Segmentation(values, np.ones((15, 20)), Vocabulary(names)))
    assert 'and 260 more' in html
    assert len(html) < 10_000


@pytest.mark.parametrize('size', [(1, 1), (20, 10), (3000, 20)])
def test_the_drawing_of_the_page_has_no_legend_and_is_bounded(size):
    mask = np.zeros(size[::-1], np.int32)
    result = Segmentation(mask, np.ones(mask.shape), Vocabulary(('cat', 'dog')), Image.new('RGB', size))
    sheet, shown = drawn(result, 0.6)
    assert sheet.width >= size[0]
    assert sheet.height > size[1]
    assert shown.size == (size if max(size) <= 1280 else (1280, 9))


def test_files(mask, boxes, tmp_path):
    names = [file.name for file in write_files(tmp_path / 'a', 'cat', mask, Image.new('RGB', (9, 9)))]
    assert names == ['cat_mask.png', 'cat_overlay.jpg', 'cat.json', 'cat_coco.json']
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'a/cat_mask.png')), mask.mask)
    assert len(write_files(tmp_path / 'b', 'cat', boxes, Image.new('RGB', (9, 9)))) == 3
