"""Results are checked when they are made, and can be drawn, written and exported."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.inference.results import Classification, Detections, Segmentation
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_mask
from clipdense.utils.palette import class_palette
from clipdense.vocab.vocabulary import Vocabulary

VOCABULARY = Vocabulary(('sky', 'road', 'car'))
MASK = np.array([[0, 0, 1, 1], [0, 2, 1, 1]])
SCORES = np.array([[0.5, 0.7, 0.9, 0.9], [0.6, 0.4, 0.9, 0.9]], np.float32)
XYXY = np.array([[1.0, 2, 11, 22], [0, 0, 5, 5]])
NOTHING = {'xyxy': np.zeros((0, 4)), 'confidence': np.zeros(0), 'class_ids': np.zeros(0, int)}


def segmentation(**changes) -> Segmentation:
    fields = {'mask': MASK, 'scores': SCORES, 'vocabulary': VOCABULARY, 'image': Image.new('RGB', (4, 2))}
    return Segmentation(**(fields | changes))


def detections(**changes) -> Detections:
    fields = {
        'xyxy': XYXY,
        'confidence': np.array([0.9, 0.4]),
        'class_ids': np.array([1, 0]),
        'vocabulary': Vocabulary(('cat', 'dog')),
        'image': Image.new('RGB', (40, 30)),
    }
    return Detections(**(fields | changes))


def classification(probabilities=(0.2, 0.5, 0.3)) -> Classification:
    return Classification(np.array(probabilities), VOCABULARY)


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    """A copy whose last element is another one."""
    changed = array.astype(float)
    changed[(-1,) * array.ndim] = value
    return changed


# Values


def test_class_fractions_are_largest_first_and_sum_to_one():
    assert segmentation().class_fractions() == {'road': 0.5, 'sky': 0.375, 'car': 0.125}


def test_top_classes_are_best_first():
    assert classification().top(2) == [('road', 0.5), ('car', 0.3)]
    assert len(classification().top(10)) == 3


MANY = Vocabulary(tuple('abcde'))


@pytest.mark.parametrize(
    ('result', 'expected'),
    [
        (classification(), 'Classification(3 classes: road 50%, car 30%, sky 20%)'),
        (Classification(np.full(5, 0.2), MANY), 'Classification(5 classes: a 20%, b 20%, c 20%, ...)'),
        (Classification(np.ones(1), Vocabulary(('cat',))), 'Classification(1 class: cat 100%)'),
        (segmentation(), 'Segmentation(4 x 2, 3 of 3 classes: road 50%, sky 38%, car 12%)'),
        (segmentation(mask=MASK * 0), 'Segmentation(4 x 2, 1 of 3 classes: sky 100%)'),
        (detections(), 'Detections(2: 1 dog, 1 cat)'),
        (detections(class_ids=np.array([1, 1])), 'Detections(2: 2 dog)'),
        (detections(**NOTHING), 'Detections(0)'),
    ],
)
def test_a_result_prints_short(result, expected):
    assert repr(result) == expected


# Refusals


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: classification([1.0]), r'must have shape \(3,\), one for each class .* got \(1,\)'),
        (lambda: classification([[0.2, 0.5, 0.3]]), r'got \(1, 3\)'),
        (lambda: classification([0.2, 0.5, np.nan]), 'probabilities must be finite, but 1 of 3'),
        (lambda: segmentation(scores=SCORES[:1]), r'same shape \(H, W\), got \(2, 4\) and \(1, 4\)'),
        (lambda: segmentation(mask=MASK[None], scores=SCORES[None]), r'same shape \(H, W\)'),
        (
            lambda: segmentation(scores=with_value(SCORES, np.inf)),
            'scores must be finite, but 1',
        ),
        (lambda: segmentation(mask=MASK + 1), 'class index 3, but the vocabulary has 3 .* from 0 to 2'),
        (lambda: segmentation(mask=MASK - 1), 'the mask contains class index -1'),
        (lambda: segmentation(mask=MASK.astype(float)), 'must contain integer class indices, got float64'),
        (
            lambda: segmentation(image=Image.new('RGB', (2, 4))),
            r'mask has size \(2, 4\), but the image has \(4, 2\)',
        ),
        (lambda: detections(xyxy=np.zeros((3, 4))), r'got \(3, 4\), \(2,\) and \(2,\)'),
        (lambda: detections(xyxy=np.zeros((2, 5))), r'shapes \(n, 4\)'),
        (lambda: detections(confidence=np.zeros(3)), r'shapes \(n, 4\)'),
        (lambda: detections(confidence=np.array(0.5)), r'shapes \(n, 4\)'),
        (lambda: detections(class_ids=np.zeros((2, 1), int)), r'shapes \(n, 4\)'),
        (lambda: detections(confidence=np.array([0.9, np.nan])), 'confidence must be finite'),
        (lambda: detections(xyxy=with_value(XYXY, np.nan)), 'xyxy must be finite, but 1 of 8'),
        (lambda: detections(xyxy=with_value(XYXY, -1)), 'has x1 > x2 or y1 > y2'),
        (lambda: detections(class_ids=np.array([0, 2])), 'class_ids contains class index 2'),
        (
            lambda: detections(class_ids=np.array([0.0, 1.0])),
            'must contain integer class indices, got float64',
        ),
        (lambda: detections(masks=np.zeros((1, 30, 40), bool)), r'shape \(2, 30, 40\), one for each box'),
        (lambda: detections(masks=np.zeros((2, 40, 30), bool)), r'got \(2, 40, 30\)'),
        (lambda: detections(masks=np.zeros((2, 9), bool), image=None), r'\(2, H, W\)'),
        (lambda: detections(masks=np.zeros((2, 30, 40))), 'masks must be bool, got float64'),
        (lambda: segmentation(image=None).draw(), r'no image: pass one, as in result\.draw\(image\)'),
        (lambda: detections(image=None).plot(), 'no image: pass one'),
        (lambda: segmentation().draw(np.zeros((2, 4, 3))), 'must be a Pillow image, got ndarray'),
        (lambda: detections().draw('a.png'), 'must be a Pillow image, got str'),
        (lambda: segmentation(image=np.zeros((2, 4, 3))), 'must be a Pillow image, got ndarray'),
        (lambda: segmentation(mask=MASK.tolist()), 'mask must be a NumPy array, got list'),
        (lambda: segmentation(scores=torch.ones(2, 4)), 'scores must be a NumPy array, got Tensor'),
        (lambda: detections(xyxy=XYXY.tolist()), 'xyxy must be a NumPy array, got list'),
        (lambda: detections(xyxy=XYXY.astype(str)), 'xyxy must contain numbers, got <U'),
        (
            lambda: Classification([0.2, 0.5, 0.3], VOCABULARY),
            'probabilities must be a NumPy array, got list',
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize('result', [segmentation(), detections()], ids=['segmentation', 'detections'])
def test_supervision_is_asked_for_where_it_is_missing(result, monkeypatch):
    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(InputError, match=r'pip install "clipdense\[viz\]"'):
        result.to_supervision()


# Drawing


def test_a_plot_is_the_drawing_as_an_array():
    for result in (segmentation(), detections(), segmentation(image=Image.new('RGB', (4, 2)))):
        plot = result.plot()
        assert plot.dtype == np.uint8
        assert plot.flags.writeable
        assert np.array_equal(plot, np.asarray(result.draw()))
    assert segmentation().plot(legend=False).shape == (256, 512, 3)
    assert segmentation().plot(legend=False, side=1).shape == (2, 4, 3)
    assert detections().plot(side=40).shape == (30, 40, 3)
    assert segmentation(image=None).plot(Image.new('RGB', (4, 2)), side=1).shape[2] == 3


@pytest.mark.parametrize('names', [('background', 'road', 'car'), ('road', 'car', 'Other things')])
def test_the_background_is_not_colored(names):
    background = 0 if names[0] == 'background' else 2
    vocabulary = Vocabulary(names, background=names[background])
    image = Image.new('RGB', (4, 2), (90, 90, 90))
    plot = segmentation(vocabulary=vocabulary, image=image).plot(opacity=1, legend=False, side=1)
    colors = class_palette(3)
    colors[background] = 90
    assert np.array_equal(plot, colors[MASK])


# Files and exports


def test_mask_png_holds_the_classes_in_the_colors_of_the_drawing(tmp_path):
    path = segmentation().save(tmp_path / 'mask.png')
    assert np.array_equal(read_mask(path), MASK)
    colors = np.asarray(Image.open(path).convert('RGB'))
    assert np.array_equal(colors, segmentation().plot(opacity=1, legend=False, side=1))


def test_mask_png_shows_the_background_black(tmp_path):
    vocabulary = Vocabulary(('background', 'road', 'car'), background='background')
    path = segmentation(vocabulary=vocabulary).save(tmp_path / 'mask.png')
    assert np.array_equal(read_mask(path), MASK)
    assert Image.open(path).convert('RGB').getpixel((0, 0)) == (0, 0, 0)


def test_dict_holds_size_fraction_and_score():
    values = segmentation().to_dict()
    assert (values['height'], values['width']) == (2, 4)
    assert values['segments'][1] == {'class': 'sky', 'class_index': 0, 'fraction': 0.375, 'score': 0.6}


def test_coco_masks_decode_to_the_mask():
    from pycocotools import mask as coco

    results = segmentation().to_coco(image_id=7)
    assert [(result['image_id'], result['category_id']) for result in results] == [(7, 2), (7, 1), (7, 3)]
    for result in results:
        decoded = coco.decode({**result['segmentation'], 'counts': result['segmentation']['counts'].encode()})
        assert np.array_equal(decoded, result['category_id'] - 1 == MASK)


def test_detections_as_coco_and_dict():
    masks = np.zeros((2, 30, 40), bool)
    masks[0, 2:22, 1:11] = True
    found = detections(masks=masks)
    first = found.to_coco(7)[0]
    size = first.pop('segmentation')['size']
    assert first == {'image_id': 7, 'category_id': 2, 'bbox': [1, 2, 10, 20], 'score': 0.9}
    assert size == [30, 40]
    json.dumps(found.to_coco())
    second = {'class': 'cat', 'class_index': 0, 'score': 0.4, 'box': [0, 0, 5, 5]}
    assert found.to_dict()['detections'][1] == second
    assert found.summary() == '1 dog, 1 cat'
    assert found.plot().any()


def test_nothing_found_is_a_result(tmp_path):
    found = detections(**NOTHING, masks=np.zeros((0, 30, 40), bool))
    assert found.to_coco() == []
    assert found.summary() == 'nothing found'
    assert found.draw().size == (480, 360)
    assert json.loads(found.save(tmp_path / 'a.json').read_text())['detections'] == []


def test_supervision_gets_what_it_names(monkeypatch):
    """With a stand-in for the package, which is not installed with the tests."""
    stand_in = SimpleNamespace(
        Detections=lambda **fields: SimpleNamespace(**fields),
        mask_to_xyxy=lambda masks: np.zeros((len(masks), 4)),
    )
    monkeypatch.setitem(sys.modules, 'supervision', stand_in)
    boxes = detections().to_supervision()
    assert boxes.xyxy.tolist() == XYXY.tolist()
    np.testing.assert_allclose(boxes.confidence, [0.9, 0.4])
    assert (boxes.class_id.tolist(), boxes.data['class_name'].tolist()) == ([1, 0], ['dog', 'cat'])
    assert detections(**NOTHING).to_supervision().data['class_name'].dtype.kind == 'U'
    segments = segmentation().to_supervision()
    assert segments.mask.shape == (3, 2, 4)
    assert segments.data['class_name'].tolist() == ['sky', 'road', 'car']


def test_data_frames():
    pytest.importorskip('pandas')
    table = detections().to_pandas()
    assert table['class'].tolist() == ['dog', 'cat']
    assert table[['x1', 'y1', 'x2', 'y2']].values.tolist() == XYXY.tolist()
    assert list(detections(**NOTHING).to_pandas().columns) == list(table.columns)
    assert segmentation().to_pandas().set_index('class')['fraction'].to_dict() == {
        'road': 0.5,
        'sky': 0.375,
        'car': 0.125,
    }


def test_data_frames_need_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pandas', None)
    with pytest.raises(InputError, match=r'pandas is not installed.*clipdense\[viz\]'):
        detections().to_pandas()
