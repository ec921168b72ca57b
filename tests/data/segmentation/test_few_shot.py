"""Episodes of PASCAL-5i, COCO-20i and FSS-1000, written small."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from clipdense.data.segmentation.few_shot import (
    FSS1000,
    CocoFold,
    PascalFold,
    class_lists,
    draw_episodes,
    fold_classes,
)
from clipdense.utils.errors import InputError


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


@pytest.mark.parametrize(
    ('benchmark', 'fold', 'held'),
    [
        ('pascal', 0, (0, 1, 2, 3, 4)),
        ('pascal', 3, (15, 16, 17, 18, 19)),
        ('coco', 1, tuple(range(1, 80, 4))),
    ],
)
def test_folds(benchmark, fold, held):
    count = 20 if benchmark == 'pascal' else 80
    assert fold_classes(benchmark, fold, 'val') == held
    assert set(fold_classes(benchmark, fold, 'train')) == set(range(count)) - set(held)


@pytest.mark.parametrize(('fold', 'split'), [(4, 'val'), (-1, 'val'), (0, 'test')])
def test_other_folds_are_refused(fold, split):
    with pytest.raises(InputError, match='fold must be 0 to 3'):
        fold_classes('coco', fold, split)


@pytest.fixture
def voc(tmp_path):
    """Two images; in the first, class 5 (bottle, index 4) is on the left and void in a corner."""
    mask = np.zeros((4, 6))
    mask[:, :3], mask[0, 5], mask[3, 4] = 5, 255, 7
    for name in ('2007_000033', '2007_000061'):
        write(tmp_path / 'JPEGImages' / f'{name}.jpg', np.zeros((4, 6, 3)))
        write(tmp_path / 'SegmentationClassAug' / f'{name}.png', mask)
    for folder, fold, lines in [
        ('val', 0, '2007_000033__05\n2007_000061__05\n\n'),
        ('trn', 1, '2007_000033__07\n'),
        ('trn', 2, '2007_000061__11\n'),
        ('trn', 3, '2007_000061__16\n'),
    ]:
        path = tmp_path / 'lists' / folder / f'fold{fold}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines)
    return tmp_path


def test_pascal_asks_for_the_class_of_each_line(voc):
    fold = PascalFold(voc, 0, lists=voc / 'lists', size=12)
    assert len(fold) == 1000
    sample = fold[1]['samples']
    assert sample.class_id == 4
    assert fold.class_names[4] == 'bottle'
    assert 'pottedplant' in fold.class_names
    assert fold.vocabulary.class_names[:2] == ('others', 'aeroplane')
    assert fold[1]['images'].shape == (3, 12, 12)
    assert (sample.mask[:, :6] == 1).all()  # nearest: 6 pixels become 12
    assert (sample.mask[:3, 10:] == 255).all()
    assert (sample.mask[9:, 8:10] == 0).all()  # another class
    assert fold.episode(0) == fold.episode(2)  # two pairs, over and over


def test_pascal_trains_on_the_other_folds(voc):
    fold = PascalFold(voc, 0, 'train', voc / 'lists', episodes=None)
    assert [fold.episode(at).class_id for at in range(len(fold))] == [6, 10, 15]
    assert fold.metainfo['class_ids'] == tuple(range(5, 20))


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (
            '2007_000033__06\n',
            r"line 1: expected IMAGE__CLASS with a class of this fold, got '2007_000033__06'",
        ),
        ('2007_000033\n', 'expected IMAGE__CLASS'),
        ('\n', 'fold0.txt is empty'),
        ('2007_000099__05\n', '1 of 1 images of the lists are not in .*JPEGImages: 2007_000099'),
        (None, r'fold0\.txt does not exist'),
    ],
    ids=['class', 'form', 'empty', 'missing', 'no file'],
)
def test_bad_lists_are_refused(voc, lines, message):
    path = voc / 'lists' / 'val' / 'fold0.txt'
    path.unlink() if lines is None else path.write_text(lines)
    with pytest.raises(InputError, match=message):
        PascalFold(voc, 0, lists=voc / 'lists')


def test_the_draws_are_those_of_the_harness():
    """Its order of calls on numpy's global generator, written out."""
    images = {at: [f'{at}_{number}.jpg' for number in range(5 + at)] for at in (0, 4, 8)}
    np.random.seed(0)  # noqa: NPY002
    expected = []
    for _ in range(20):
        class_id = np.random.choice([0, 4, 8], 1, replace=False)[0]  # noqa: NPY002
        expected.append((class_id, np.random.choice(images[class_id], 1, replace=False)[0]))  # noqa: NPY002
    assert draw_episodes((0, 4, 8), images, 20, seed=0) == expected


@pytest.fixture
def coco(tmp_path):
    lists = {str(at): [f'val2014/{at}.jpg'] for at in range(80)}
    for at in (1, 5, 9):
        write(tmp_path / 'val2014' / f'{at}.jpg', np.zeros((4, 4, 3)))
        write(tmp_path / 'annotations' / 'val2014' / f'{at}.png', [[at + 1] * 4, [0] * 4] * 2)
    (tmp_path / 'val.json').write_text(json.dumps(lists))
    return tmp_path


def test_coco_draws_classes_of_its_fold(coco):
    fold = CocoFold(coco, 1, coco / 'val.json', size=4)
    assert len(fold) == 1000
    assert {fold.episode(at).class_id for at in range(1000)} == set(range(1, 80, 4))
    assert fold.class_names[9:11] == ('trafficlight', 'firehydrant')
    assert fold.class_names[62] == 'tvmonitor'
    shown = next(at for at in range(1000) if fold.episode(at).class_id in (1, 5, 9))
    assert fold[shown]['samples'].mask.tolist() == [[1] * 4, [0] * 4] * 2
    again = CocoFold(coco, 1, coco / 'val.json')
    assert [again.episode(at) for at in range(50)] == [fold.episode(at) for at in range(50)]


def test_coco_training_draws_anew_each_epoch(coco):
    fold = CocoFold(coco, 1, coco / 'val.json', 'train', episodes=30)
    first = [fold.episode(at) for at in range(30)]
    assert first == [fold.episode(at) for at in range(30)]
    fold.set_epoch(1)
    assert first != [fold.episode(at) for at in range(30)]
    assert all(episode.class_id % 4 != 1 for episode in first)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[1]', 'is not a JSON object of class'),
        ('{"1": []}', r'no images for the classes \[1, 5'),
        ('{', 'is not valid JSON'),
    ],
)
def test_coco_lists_that_are_none(coco, text, message):
    (coco / 'val.json').write_text(text)
    with pytest.raises(InputError, match=message):
        CocoFold(coco, 1, coco / 'val.json')


def test_class_lists_come_from_annotations(tmp_path):
    """Category ids have gaps; an image is listed once a class, in the order of names."""
    instances = {
        'categories': [{'id': 7, 'name': 'train'}, {'id': 1, 'name': 'person'}],
        'images': [{'id': 5, 'file_name': 'b.jpg'}, {'id': 6, 'file_name': 'a.jpg'}],
        'annotations': [
            {'category_id': 7, 'image_id': 5},
            {'category_id': 1, 'image_id': 5},
            {'category_id': 1, 'image_id': 6},
            {'category_id': 1, 'image_id': 6},
        ],
    }
    (tmp_path / 'instances.json').write_text(json.dumps(instances))
    found = class_lists(tmp_path / 'instances.json', 'val2014')
    assert found == {0: ['val2014/a.jpg', 'val2014/b.jpg'], 1: ['val2014/b.jpg']}


@pytest.fixture
def fss(tmp_path):
    for split, names in {'trn': 'bus\nant\n', 'val': 'cat\n', 'test': 'egg\ndog\n'}.items():
        (tmp_path / f'{split}.txt').write_text(names)
    for name in ('dog', 'egg'):
        for number in (1, 2, 10):
            write(tmp_path / name / f'{number}.jpg', np.zeros((4, 4, 3)))
            write(tmp_path / name / f'{number}.png', [[[127] * 3, [128] * 3, [255] * 3, [0] * 3]] * 4)
    return tmp_path


def test_fss_shows_all_images_of_its_classes(fss):
    images = FSS1000(fss, lists=fss, size=4)
    assert images.class_names == ('ant', 'bus', 'cat', 'dog', 'egg')
    assert [images.episode(at).class_id for at in range(len(images))] == [3, 3, 3, 4, 4, 4]
    assert [images.episode(at).image.stem for at in range(3)] == ['1', '10', '2']
    assert images[0]['samples'].mask[0].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ('split', 'message'),
    [
        ('train', '2 of 2 classes have no images in .*: ant, bus'),
        ('dev', "'train', 'val' or 'test', got 'dev'"),
    ],
)
def test_fss_without_images_is_refused(fss, split, message):
    with pytest.raises(InputError, match=message):
        FSS1000(fss, split, fss)
