"""Roboflow's COCO exports: splits, the category of the group, prompts, and a few images of each class."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from clipdense.data.detection.few_shot import FewShotDetection, draw_images
from clipdense.data.detection.roboflow import RoboflowDetection
from clipdense.data.layouts import recognize
from clipdense.utils.errors import InputError
from clipdense.vocab.wording import WordedNames

CELLS = [
    {'id': 0, 'name': 'cells', 'supercategory': 'none'},
    {'id': 1, 'name': 'Platelets', 'supercategory': 'cells'},
    {'id': 2, 'name': 'RBC', 'supercategory': 'cells'},
]


def export(
    root, splits=('train', 'valid', 'test'), categories=CELLS, name='_annotations.coco.json', images=4
):
    """Image n has one box of RBC; every second image one of platelets too.  Ids begin at 0, as Roboflow's."""
    for split in splits:
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        listed, boxes = [], []
        for number in range(images):
            Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(folder / f'{number}.jpg')
            listed.append({'id': number, 'file_name': f'{number}.jpg', 'width': 40, 'height': 32})
            for category in (2, 1)[: 1 + number % 2]:
                about = {'image_id': number, 'bbox': [2, 2, 8, 8], 'area': 64, 'iscrowd': 0}
                boxes.append({**about, 'id': len(boxes), 'category_id': category})
        content = {'images': listed, 'annotations': boxes, 'categories': categories}
        (folder / name).write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ('split', 'folder'), [('train', 'train'), ('valid', 'valid'), ('val', 'valid'), ('test', 'test')]
)
def test_a_split_without_its_group(tmp_path, split, folder):
    data = RoboflowDetection(export(tmp_path), split)
    assert data.vocabulary.class_names == ('Platelets', 'RBC')
    assert [one['name'] for one in data.metainfo['ground_truth']['categories']] == ['Platelets', 'RBC']
    assert data.images[0].path.parent.name == folder
    assert data[1]['data_samples'].gt_instances.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    'categories',
    [
        [{**CELLS[0], 'name': 'Platelets', 'supercategory': 'none'}, {'id': 1, 'name': 'x'}, CELLS[2]],
        [{'id': 0, 'name': 'dust', 'supercategory': 'cells'}, *CELLS[1:]],
    ],
    ids=['a class of its own', 'a class without boxes'],
)
def test_other_categories_stay(tmp_path, categories):
    assert len(RoboflowDetection(export(tmp_path, categories=categories)).vocabulary) == 3


def test_annotations_without_the_group_and_subsets_are_preferred(tmp_path):
    export(tmp_path)
    export(tmp_path, ('train',), CELLS[1:], 'annotations_without_background.json', images=3)
    export(tmp_path, ('train',), CELLS[1:], 'fewshot_train_shot1_seed3.json', images=1)
    assert len(RoboflowDetection(tmp_path)) == 3
    assert len(RoboflowDetection(tmp_path, annotations='fewshot_train_shot1_seed3.json')) == 1


def test_prompts_beside_the_splits(tmp_path):
    export(tmp_path)
    (tmp_path / 'prompts.json').write_text(json.dumps({'rbc': 'red blood cell'}))
    names = RoboflowDetection(tmp_path).vocabulary
    assert isinstance(names, WordedNames)
    assert names.class_names == ('Platelets', 'RBC')
    assert names.queries == (('Platelets', 0), ('red blood cell', 1))
    sentence = {'sentence': 'platelets and red blood cells', 'phrases': ['platelets', 'red blood cells']}
    (tmp_path / 'other.json').write_text(json.dumps(sentence))
    data = RoboflowDetection(tmp_path, wording=tmp_path / 'other.json')
    assert data.vocabulary.class_names == ('platelets', 'red blood cells')
    assert [one['name'] for one in data.ground_truth['categories']] == ['platelets', 'red blood cells']


@pytest.mark.parametrize(
    ('make', 'options', 'message'),
    [
        (lambda root: root, {}, 'give the folder of an export'),
        (export, {'split': 'tset'}, "has no split 'tset'; it has test, train, valid"),
        (export, {'annotations': 'few.json'}, 'has no few.json; it has _annotations.coco.json'),
        (lambda root: root / 'none', {}, 'is not a folder'),
    ],
)
def test_what_is_not_there(tmp_path, make, options, message):
    with pytest.raises(InputError, match=message):
        RoboflowDetection(make(tmp_path), **options)


def test_layouts(tmp_path):
    one = recognize(export(tmp_path / 'a/BCCD.v3'))
    assert (one.kind, list(one.parts), one.part()[0]) == ('boxes', ['train', 'val', 'test'], 'val')
    export(tmp_path / 'b', ('train', 'test'))
    export(tmp_path / 'c', ('test',))
    found = recognize(tmp_path, several=True)
    assert {name: layout.part()[0] for name, layout in found.members.items()} == {
        'a/BCCD.v3': 'val',
        'b': 'test',
        'c': 'test',
    }
    with pytest.raises(InputError, match=r'is a folder of 3 data sets: give one of them, such as a/BCCD\.v3'):
        recognize(tmp_path)


# Shots

IMAGES = [{'a'}, {'a', 'b'}, {'a'}, set(), {'b'}, {'c'}, {'a', 'c'}]


@pytest.mark.parametrize(
    ('shots', 'draw', 'expected'),
    [
        (1, 0, [0, 1, 5]),  # image 1 for 'b', also if it has 'a' again
        (2, 0, [0, 1, 4, 5, 6]),
        (99, 0, [0, 1, 2, 4, 5, 6]),
        (1, 3, [0, 4, 6]),
    ],
)
def test_images_of_each_class(shots, draw, expected):
    assert draw_images(IMAGES, shots, draw) == expected


@pytest.mark.parametrize(
    ('shots', 'draw', 'message'),
    [(0, 1, 'shots'), (True, 1, 'shots'), (1.5, 1, 'shots'), (1, -1, 'draw')],
)
def test_shots_out_of_range(shots, draw, message):
    with pytest.raises(InputError, match=f'{message} must be a whole number'):
        draw_images(IMAGES, shots, draw)


def test_a_few_images(tmp_path):
    config = dict(type=RoboflowDetection, root=export(tmp_path, images=6))
    few = FewShotDetection(config, shots=2, draw=3, copies=3)
    assert len(few.images) < 6
    assert len(few) == 3 * len(few.images)
    assert few.vocabulary.class_names == ('Platelets', 'RBC')
    counts = np.bincount([item['label'] for one in few.images for item in one.objects])
    assert min(counts) >= 2
    ids = [few[index]['data_samples'].img_id for index in range(len(few))]
    assert ids[: len(few.images)] * 3 == ids
    assert len(FewShotDetection(config, shots=None)) == 6
    again = FewShotDetection(config, shots=2, draw=30)
    assert [one.image_id for one in again.images] != [one.image_id for one in few.images]


def test_copies_are_transformed_apart(tmp_path):
    from clipdense.data.detection.transforms import RandomFlip

    config = dict(type=RoboflowDetection, root=export(tmp_path), transforms=[RandomFlip(prob=0.5)])
    few = FewShotDetection(config, shots=1, copies=12)
    count = len(few.images)
    flips = {few[copy * count]['data_samples'].gt_instances.bboxes[0, 0].item() for copy in range(12)}
    assert flips == {2.0, 30.0}


def test_few_shot_says_what_is_missing(tmp_path):
    config = dict(type=RoboflowDetection, root=export(tmp_path))
    with pytest.warns(UserWarning, match=r'1 class with fewer than 3 images: Platelets \(2\)'):
        FewShotDetection(config, shots=3)
    with pytest.raises(InputError, match='copies must be a whole number'):
        FewShotDetection(config, shots=1, copies=0)
