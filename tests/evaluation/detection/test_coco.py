"""AP against the official programs, and what has no number."""

from __future__ import annotations

import copy
import json
import math

import pytest

from clipdense.evaluation.detection.coco import (
    coco_precision,
    lvis_fixed_precision,
    lvis_means,
    lvis_precision,
)
from clipdense.evaluation.detection.voc import voc_average_precision
from clipdense.utils.errors import InputError

TRUTH = {
    'images': [{'id': 3, 'width': 100, 'height': 100}, {'id': 5, 'width': 100, 'height': 100}],
    'categories': [{'id': 9, 'name': 'dog'}, {'id': 4, 'name': 'cat'}, {'id': 7, 'name': 'cow'}],
    'annotations': [
        {'id': 1, 'image_id': 3, 'category_id': 9, 'bbox': [10, 10, 40, 40]},
        {'id': 2, 'image_id': 5, 'category_id': 4, 'bbox': [20, 20, 50, 30]},
    ],
}
FOUND = [
    {'image_id': 3, 'category_id': 9, 'bbox': [10, 10, 40, 40], 'score': 0.9},
    {'image_id': 5, 'category_id': 4, 'bbox': [60, 60, 30, 30], 'score': 0.8},
]


def read(golden_path, name):
    return json.loads(golden_path(f'{name}.json').read_text())


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_coco(golden_path, kind):
    file = read(golden_path, 'coco_eval_tiny')
    base, novel = file['splits']['base'], file['splits']['novel']
    names = {'all65_style': [*base, *novel], 'base': base, 'novel': novel}
    scores = coco_precision(file['gt'], file[f'detections_{kind}'], kind, names['all65_style'])
    for group, members in names.items():
        assert scores.means(members) == pytest.approx(file['coco'][kind][group]['results'], abs=1e-9)
    official = file['coco'][kind]['all65_style']['per_category']
    assert scores.per_class() == pytest.approx({name: one['AP'] for name, one in official.items()})
    assert scores.per_class(0) == pytest.approx({name: one['AP50'] for name, one in official.items()})


def test_order_of_the_categories_does_not_matter(golden_path):
    """Where mmdet's OVCocoMetric mixes classes up."""
    file = read(golden_path, 'coco_eval_tiny')
    file['gt']['categories'].reverse()
    scores = coco_precision(file['gt'], file['detections_bbox'])
    expected = file['coco']['bbox']['base']['results']['AP50']
    assert scores.means(file['splits']['base'])['AP50'] == pytest.approx(expected)


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
@pytest.mark.parametrize('cap', [300, 4])
def test_lvis(golden_path, kind, cap):
    file = read(golden_path, 'lvis_eval_tiny')
    scores = lvis_precision(file['gt'], file[f'detections_{kind}'], kind, cap)
    official = file['official'][kind if cap == 300 else f'{kind}_max_dets_4']
    expected = {name.replace('@300', f'@{cap}'): value for name, value in official['results'].items()}
    assert lvis_means(file['gt'], scores) == pytest.approx(expected, abs=1e-9)
    assert scores.per_class() == pytest.approx(official['per_category_AP'])


def test_a_mask_has_its_own_area_beside_a_box(golden_path):
    file = read(golden_path, 'lvis_eval_tiny')
    both = [
        {**box, **mask} for box, mask in zip(file['detections_bbox'], file['detections_segm'], strict=True)
    ]
    scores = lvis_precision(file['gt'], both, 'segm')
    assert scores.means()['APm'] == pytest.approx(file['official']['segm']['results']['APm'])


@pytest.mark.parametrize('style', ['11points', 'area'])
@pytest.mark.parametrize('pixels', [0, 1])
def test_voc(golden_path, style, pixels):
    file = read(golden_path, 'coco_eval_tiny')
    names = file['splits']['base'] + file['splits']['novel']
    found = voc_average_precision(file['gt'], file['detections_bbox'], style, pixels=pixels)
    official = file['voc_iou50'][f'{style}/{("plain", "plus1")[pixels]}']
    expected = {name: value for name, value in official['per_category'].items() if value is not None}
    assert {name: found[name] for name in names if name in found} == pytest.approx(expected, abs=1e-6)
    for threshold in (0.6, 0.7, 0.75, 0.8):
        found = voc_average_precision(file['gt'], file['detections_bbox'], style, threshold, pixels)
        kept = [found[name] for name in names if name in found]
        expected = file['voc_iou50']['other_iou_mAP'][f'{style}/{("plain", "plus1")[pixels]}/{threshold}']
        assert sum(kept) / len(kept) == pytest.approx(expected, abs=1e-6)


def test_by_hand():
    """The dog is found exactly, the cat not at all, and there is no cow."""
    scores = coco_precision(TRUTH, FOUND)
    assert scores.per_class() == pytest.approx({'cat': 0, 'cow': -1, 'dog': 1})
    assert scores.means()['AP50'] == pytest.approx(0.5)
    assert scores.means(['cow'])['AP'] == -1
    assert voc_average_precision(TRUTH, FOUND) == pytest.approx({'dog': 1, 'cat': 0})


def test_lvis_fixed(golden_path):
    """The best of each class, however many an image has of them."""
    file = read(golden_path, 'lvis_eval_tiny')
    found = file['detections_bbox']
    everything = lvis_fixed_precision(file['gt'], found, 'bbox')
    official = file['official']['bbox']  # whose limit of 300 is not reached
    assert lvis_means(file['gt'], everything)['AP'] == pytest.approx(official['results']['AP'], abs=1e-9)
    by_class = {}
    for one in sorted(found, key=lambda one: -one['score']):
        by_class.setdefault(one['category_id'], []).append(one)
    best = [one for listed in by_class.values() for one in listed[:3]]
    assert len(best) < len(found)
    limited = lvis_fixed_precision(file['gt'], found, 'bbox', per_class=3)
    assert limited.per_class() == pytest.approx(lvis_precision(file['gt'], best, 'bbox', 1000).per_class())
    assert lvis_fixed_precision(file['gt'], [], 'bbox').means()['AP'] == 0


@pytest.mark.parametrize('score', [coco_precision, lambda *a: lvis_precision(*a, kind='bbox')])
def test_nothing_found_is_zero(score):
    scores = score(TRUTH, [])
    assert scores.per_class() == {'cat': 0, 'cow': -1, 'dog': 0}
    assert scores.means()['AP'] == scores.means()['AP50'] == 0


def test_nothing_found_in_voc_is_zero():
    assert voc_average_precision(TRUTH, []) == {'dog': 0, 'cat': 0}


def test_an_annotation_with_id_0_counts():
    truth = copy.deepcopy(TRUTH)
    truth['annotations'][0]['id'] = 0
    assert coco_precision(truth, FOUND).per_class()['dog'] == pytest.approx(1)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'score': math.nan}, 'score must be a finite number, got nan'),
        ({'score': None}, 'score must be a finite number, got None'),
        ({'image_id': 77}, 'image_id 77 is not in the ground truth'),
        ({'category_id': 1}, 'category_id 1 is not'),
        ({'bbox': [0, 0, -1, 5]}, 'negative width'),
        ({'bbox': [0, 0, 5]}, 'must be four numbers'),
        ({'image_id': [1]}, r'image_id \[1\] is not'),
        ({'segmentation': 'abc'}, 'must be polygons or run lengths'),
    ],
    ids=['nan', 'no score', 'other image', 'other category', 'negative', 'three numbers', 'list', 'mask'],
)
@pytest.mark.parametrize('score', [coco_precision, voc_average_precision], ids=['coco', 'voc'])
def test_results_that_cannot_be_scored(change, message, score):
    with pytest.raises(InputError, match=message):
        score(TRUTH, [FOUND[0], {**FOUND[1], **change}])


def test_unknown_classes_are_named():
    with pytest.raises(InputError, match='horse'):
        coco_precision(TRUTH, FOUND, class_names=['dog', 'horse'])
    with pytest.raises(InputError, match='2 of 2 objects of the ground truth have no mask'):
        coco_precision(TRUTH, FOUND, 'segm')
    with pytest.raises(InputError, match='needs categories with frequency'):
        lvis_precision(TRUTH, FOUND, 'bbox')
