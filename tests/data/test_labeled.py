"""Layouts of a few labeled examples, and which of them are drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from clipdense.data.labeled import LabeledData
from clipdense.utils.errors import InputError


def write(path, value=0, shape=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for name in ('cat', 'dog'):
        for number in range(4):
            write(tmp_path / f'pets/{name}/{number}.png')
    return tmp_path / 'pets'


@pytest.fixture
def parts(tmp_path):
    for part, count in (('train', 3), ('val', 2), ('test', 1)):
        for name in ('cat', 'dog'):
            for number in range(count):
                write(tmp_path / f'parts/{part}/{name}/{part}{number}.png')
    return tmp_path / 'parts'


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / 'voc'
    for number in range(4):
        write(root / f'JPEGImages/{number}.png')
        write(root / f'SegmentationClass/{number}.png', number % 2)
    (root / 'classes.txt').write_text('cat\ndog\n')
    (root / 'ImageSets/Segmentation').mkdir(parents=True)
    (root / 'ImageSets/Segmentation/train.txt').write_text('0\n1\n2\n')
    (root / 'ImageSets/Segmentation/val.txt').write_text('3\n')
    return root


@pytest.fixture
def coco(folder):
    boxes = [
        {'id': number + 1, 'image_id': number % 2 + 1, 'category_id': number % 2 + 3, 'bbox': [1, 2, 3, 4]}
        for number in range(4)
    ]
    boxes.append({**boxes[0], 'id': 9, 'iscrowd': 1})
    data = {
        'images': [
            {'id': number, 'file_name': f'{number}.png', 'width': 8, 'height': 8} for number in (1, 2)
        ],
        'annotations': boxes,
        'categories': [{'id': 3, 'name': 'a'}, {'id': 4, 'name': 'b'}],
    }
    (folder / 'cat/boxes.json').write_text(json.dumps(data))
    return folder / 'cat/boxes.json'


class TestImages:
    def test_all_of_a_folder(self, folder):
        train, validation = LabeledData(folder).open()
        assert (len(train), validation, train.class_names) == (8, None, ('cat', 'dog'))

    def test_shots_and_the_rest(self, folder):
        train, rest = LabeledData(folder, shots=1, validation='rest').open()
        assert (sorted(train.labels), sorted(rest.labels)) == ([0, 1], [0] * 3 + [1] * 3)
        assert not {train.key(index) for index in range(2)} & {rest.key(index) for index in range(6)}

    def test_parts_are_used_as_they_are(self, parts):
        train, validation = LabeledData(parts).open()
        assert (len(train), len(validation)) == (6, 4)
        assert 'val' in validation.key(0)

    def test_another_folder(self, folder, parts):
        train, validation = LabeledData(folder, shots=2, validation=parts / 'val').open()
        assert (len(train), len(validation)) == (4, 4)


def test_masks(voc):
    train, validation = LabeledData(voc, shots=2, validation='rest').open()
    assert (len(train.indices), len(validation.indices), train.class_names) == (2, 1, ('cat', 'dog'))
    train, validation = LabeledData(voc, validation='val').open()
    assert [path.rpartition('/')[2] for path in validation.files] == ['3.png']


def test_boxes(coco):
    train, _ = LabeledData(coco).open()
    assert train.class_names == ('a', 'b')
    assert [(len(one.boxes), one.labels) for one in train.images] == [(2, [0, 0]), (2, [1, 1])]
    assert train.images[0].boxes[0] == [1, 2, 4, 6]
    (one, other), _ = LabeledData(coco, shots=1).open().train.images, None
    assert (len(one.boxes), len(other.boxes)) == (1, 1)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'labels': 'points'}, "labels must be one of images, masks, boxes, got 'points'"),
        ({'shots': 0}, 'shots must be a whole number of at least 1, got 0'),
        ({'seed': -1}, 'seed must be a whole number of at least 0, got -1'),
        ({'validation': 'rest'}, "validation='rest' needs shots"),
        ({'shots': 4, 'validation': 'rest'}, 'no validation images are left'),
        ({'shots': 1, 'validation': '.'}, 'images are both examples and validation images'),
        ({'validation': 'nowhere'}, 'nowhere is not a folder'),
    ],
)
def test_refused(folder, settings, message):
    if 'validation' in settings and settings['validation'] not in ('rest', 'nowhere'):
        settings = {**settings, 'validation': folder}
    with pytest.raises(InputError, match=message):
        LabeledData(folder, **settings).open()


def test_not_labeled_data(tmp_path, folder):
    with pytest.raises(InputError, match='nowhere does not exist'):
        LabeledData(tmp_path / 'nowhere').open()
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='no images in the subfolders'):
        LabeledData(tmp_path / 'empty').open()
    (folder / 'cow').mkdir()
    with pytest.raises(InputError, match="the class 'cow' has no images to draw"):
        LabeledData(folder, shots=1).open()
    (tmp_path / 'voc/JPEGImages').mkdir(parents=True)
    with pytest.raises(InputError, match='has JPEGImages, but neither SegmentationClass nor Annotations'):
        LabeledData(tmp_path / 'voc').open()


@pytest.mark.parametrize(
    ('classes', 'names'),
    [('all', ('cat', 'dog')), ('base', ('cat',)), ('new', ('dog',)), (['Dog'], ('dog',))],
)
def test_some_classes(folder, parts, classes, names):
    for root, shots in ((folder, None), (parts, 1)):
        found = LabeledData(root, shots=shots, classes=classes).open()
        assert found.train.class_names == names
        assert set(found.train.labels) == set(range(len(names)))
    assert found.validation.class_names == names
    assert LabeledData(folder, classes=classes, validation=parts).open().validation.class_names == names


def test_classes_of_masks(voc):
    with pytest.raises(InputError, match="classes='base' chooses among labeled images, not masks"):
        LabeledData(voc, classes='base').open()


def test_images_that_cannot_be_read_are_not_drawn(folder):
    (folder / 'cat/0.png').write_bytes(b'no image')
    with pytest.warns(UserWarning, match='1 image cannot be read, and others are drawn: cat/0.png'):
        found = [LabeledData(folder, shots=3, seed=seed).open().train for seed in range(4)]
    for part in found:
        assert sum(label == 0 for label in part.labels) == 3
        assert 'cat/0.png' not in [part.key(index) for index in range(len(part))]
