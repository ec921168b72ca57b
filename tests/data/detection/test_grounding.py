"""Captions with boxes, and mixtures of datasets."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from clipdense.data.detection.datasets import CocoDetection
from clipdense.data.detection.grounding import GroundingDetection, read_grounding
from clipdense.data.detection.mixture import DetectionMixture
from clipdense.data.detection.transforms import RandomFlip
from clipdense.data.scenes import Scenes, standard_sets, write_coco
from clipdense.engine.hooks import VocabularyHook
from clipdense.utils.errors import InputError
from clipdense.vocab.spans import words_of

CAPTIONS = ('a cat to the left of a dog', 'a dog on the grass', 'nothing at all')
BOXES = [(1, [5, 5, 20, 20], [[2, 5]]), (1, [40, 5, 20, 20], [[23, 26]]), (2, [40, 5, 20, 20], [[2, 5]])]


def content(captions=CAPTIONS, boxes=BOXES):
    images = [
        {'id': number, 'file_name': '1.png', 'width': 64, 'height': 48, 'caption': caption}
        for number, caption in enumerate(captions, 1)
    ]
    annotations = [
        {
            'id': 10 + number,
            'image_id': image,
            'category_id': 1,
            'bbox': box,
            'area': 400,
            'iscrowd': 0,
            'tokens_positive': spans,
        }
        for number, (image, box, spans) in enumerate(boxes)
    ]
    return {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'object'}]}


@pytest.fixture
def folder(tmp_path):
    """One image of 64 x 48 with three captions, as captions with boxes and as COCO."""
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / '1.png')
    (tmp_path / 'captions.json').write_text(json.dumps(content()))
    coco = content(CAPTIONS[:1], BOXES[:2])
    coco['categories'] = [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}]
    (tmp_path / 'coco.json').write_text(json.dumps(coco))
    return tmp_path


def captions(folder, **options):
    return GroundingDetection(folder / 'captions.json', folder, **options)


def boxes(folder, **options):
    return CocoDetection(folder / 'coco.json', folder, **options)


def phrases_of(sample):
    about = sample['data_samples'].metainfo
    return [words_of(spans, about['caption']) for spans in about['phrases']]


def test_each_box_has_its_phrase(folder):
    data = captions(folder)
    assert (len(data), data.vocabulary) == (3, None)
    assert [phrases_of(data[index]) for index in range(3)] == [['cat', 'dog'], ['dog'], []]
    assert data[0]['data_samples'].gt_instances.labels.tolist() == [0, 1]
    assert len(captions(folder, training=True)) == 2  # those with boxes


def test_an_image_may_have_several_captions(folder):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        captions(folder)


def test_boxes_of_one_phrase_share_it(folder):
    both = content(boxes=[(1, [5, 5, 9, 9], [[2, 5]]), (1, [30, 5, 9, 9], [[2, 5]])])
    (folder / 'captions.json').write_text(json.dumps(both))
    assert captions(folder)[0]['data_samples'].gt_instances.labels.tolist() == [0, 0]


def test_a_mirrored_image_has_a_mirrored_caption(folder):
    sample = captions(folder, transforms=[RandomFlip(prob=1.0)])[0]
    assert sample['data_samples'].metainfo['caption'] == 'a cat to the right of a dog'
    assert phrases_of(sample) == ['cat', 'dog']
    assert sample['data_samples'].gt_instances.bboxes[0].tolist() == [39, 5, 59, 25]


def test_other_captions_share_no_phrase(folder):
    data = captions(folder, others=5, share=1.0)
    found = set()
    for epoch in range(20):
        data.set_epoch(epoch)
        found |= set(data[1]['data_samples'].metainfo['other_captions'])
    assert found == {'nothing at all'}  # the first one has a dog as well
    assert (
        data[1]['data_samples'].metainfo['other_captions']
        == data[1]['data_samples'].metainfo['other_captions']
    )
    assert data[1]['data_samples'].metainfo['other_phrases'] == []
    assert captions(folder, others=5, share=0.0)[1]['data_samples'].metainfo['other_captions'] == []


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda data: data['images'][1].pop('caption'), 'captions.json: image 2 has no caption'),
        (lambda data: data['images'][1].update(caption='  '), 'image 2 has no caption'),
        (lambda data: data['images'][1].update(caption=7), 'image 2 has no caption'),
        (lambda data: data['annotations'][1].pop('tokens_positive'), 'annotation 11 has no tokens_positive'),
        (lambda data: data['annotations'][1].update(tokens_positive=[2, 5]), 'annotation 11.*single span'),
        (lambda data: data['annotations'][1].update(tokens_positive=[[[2, 5]]]), 'annotation 11'),
        (lambda data: data['annotations'][1].update(tokens_positive=[]), 'annotation 11.*must be a list'),
        (lambda data: data['annotations'][1].update(tokens_positive=[[2, 99]]), 'not inside of the text'),
        (lambda data: data['annotations'][1].update(bbox=[1, 2, 3]), 'bbox must be four numbers'),
        (lambda data: data.pop('images'), "the list 'images' is missing"),
    ],
)
def test_wrong_files_are_refused(folder, change, message):
    data = content()
    change(data)
    (folder / 'captions.json').write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        captions(folder)


def test_captions_without_boxes_cannot_train(folder):
    (folder / 'captions.json').write_text(json.dumps(content(boxes=[])))
    with pytest.raises(InputError, match='no caption has a box'):
        captions(folder, training=True)


@pytest.mark.parametrize('options', [{'others': -1}, {'others': 1.5}, {'share': 2}, {'share': 'all'}])
def test_wrong_numbers_are_refused(folder, options):
    with pytest.raises(InputError, match=next(iter(options))):
        captions(folder, **options)


def test_scenes_have_captions_of_their_labeled_objects(tmp_path):
    scenes = Scenes()
    write_coco(scenes, tmp_path, standard_sets(12, 2))
    data, records = read_grounding(tmp_path / 'annotations/grounding_train.json')
    label_of = {one['id']: record for one, record in zip(data['images'], records, strict=True)}
    named = 0
    for one in data['annotations']:
        record = label_of[one['image_id']]
        assert words_of(record.phrases[one['label']], record.text) in scenes.base
        named += 1
    assert named
    assert not any(name in record.text for record in records for name in scenes.novel)


def test_a_mixture_has_the_images_of_all(folder):
    data = DetectionMixture({'boxes': boxes(folder), 'captions': captions(folder)}, {'captions': 2})
    assert len(data) == 1 + 6
    assert data.vocabulary.class_names == ('cat', 'dog')
    has = ['caption' in data[index]['data_samples'].metainfo for index in range(len(data))]
    assert has == [False] + [True] * 6


def test_a_small_weight_takes_other_images_in_each_epoch(folder):
    data = DetectionMixture({'captions': captions(folder)}, {'captions': 1 / 3})
    seen = []
    for epoch in range(3):
        data.set_epoch(epoch)
        seen += [data[index]['data_samples'].metainfo['caption'] for index in range(len(data))]
    assert sorted(seen) == sorted(CAPTIONS)


@pytest.mark.parametrize(
    ('names', 'weights', 'message'),
    [
        ((), {}, 'must have names'),
        (('boxes',), {'bxes': 1}, 'bxes'),
        (('boxes',), {'boxes': 0}, 'above 0'),
        (('boxes',), {'boxes': 0.1}, 'at least one of its 1 images'),
        (('boxes',), {'boxes': float('inf')}, 'above 0'),
        (('boxes',), {'boxes': True}, 'above 0'),
        (('boxes', 'fewer'), {}, 'different classes'),
    ],
)
def test_wrong_mixtures_are_refused(folder, names, weights, message):
    parts = {'boxes': boxes(folder), 'fewer': boxes(folder, classes=['dog'])}
    with pytest.raises(InputError, match=message):
        DetectionMixture({name: parts[name] for name in names}, weights)


def test_configs_of_a_mixture_get_its_seed(folder):
    part = {'type': GroundingDetection, 'annotations': folder / 'captions.json', 'images': folder}
    assert DetectionMixture({'one': part, 'two': {**part, 'seed': 5}}, seed=3).datasets[0].seed == 3


def test_the_hook_of_the_vocabulary_leaves_captions_alone(folder):
    runner = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=captions(folder)), model=None)
    VocabularyHook().before_train(runner)
    runner.train_dataloader.dataset = DetectionMixture({'captions': captions(folder)})
    VocabularyHook().before_train(runner)
