"""Results in notebooks and windows."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageShow

from clipdense.inference.results import Classification, Detections, Segmentation
from clipdense.vocab.vocabulary import Vocabulary

NAMES = Vocabulary(('cat', '<b>dog</b>'))
IMAGE = Image.new('RGB', (1500, 600))
SEGMENTATION = Segmentation(np.zeros((600, 1500), np.int32), np.ones((600, 1500), np.float32), NAMES, IMAGE)
DETECTIONS = Detections(np.array([[1.0, 2, 30, 40]]), np.array([0.5]), np.array([1]), NAMES, image=IMAGE)


@pytest.mark.parametrize('result', [SEGMENTATION, DETECTIONS], ids=lambda one: type(one).__name__)
def test_images(result, monkeypatch):
    shown = Image.open(io.BytesIO(result._repr_png_()))
    assert max(shown.size) <= 1024
    seen = []
    monkeypatch.setattr(ImageShow, 'show', lambda image, title: seen.append(image) or True)
    result.show()
    assert seen[0].size == result.draw().size
    monkeypatch.setattr(ImageShow, 'show', lambda image, title: False)
    with pytest.warns(UserWarning, match=r'there is no viewer .*draw\(\).save'):
        result.show()


def test_a_result_without_an_image_is_shown_as_text():
    result = Segmentation(SEGMENTATION.mask, SEGMENTATION.scores, NAMES)
    assert result._repr_png_() is None


def test_classes(capsys):
    result = Classification(np.array([0.25, 0.75]), NAMES)
    assert result._repr_html_().count('<tr>') == 2
    assert '&lt;b&gt;dog' in result._repr_html_()
    result.show()
    assert capsys.readouterr().out == ' 75.0%  <b>dog</b>\n 25.0%  cat\n'
