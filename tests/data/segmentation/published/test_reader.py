"""Readers of the published layouts against masks worked out by hand, and what they say is missing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipdense.data.segmentation.published import BENCHMARKS, BenchmarkSegmentation, find_benchmark
from clipdense.data.segmentation.published.prepare import prepare
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

MASKS = {
    'voc21': [[[0, 1, 255], [20, 15, 0]]],
    'voc20': [[[255, 0, 255], [19, 14, 255]]],
    'context60': [[[1, 1, 37], [59, 0, 0]]],
    'context59': [[[0, 0, 36], [58, 255, 255]]],
    'coco_object': [[[1, 11, 12], [24, 0, 0]], [[80, 0, 60], [0, 0, 61]]],
    'coco_stuff': [[[0, 10, 11], [23, 255, 170]], [[79, 80, 59], [80, 80, 60]]],
    'ade20k': [[[255, 0, 149], [1, 1, 12]]],
    'ade20k_full': [[[1, 65535, 0], [0, 0, 846]]],
    'cityscapes': [[[0, 255, 18], [13, 255, 11]]],
}
CLASSES = {
    'voc21': 21, 'voc20': 20, 'context60': 60, 'context59': 59, 'coco_object': 81, 'coco_stuff': 171,
    'ade20k': 150, 'ade20k_full': 847, 'cityscapes': 19,
}  # fmt: skip


@pytest.mark.parametrize('name', BENCHMARKS)
def test_masks_of_every_layout(data, name):
    prepare(name, data)
    dataset = BenchmarkSegmentation(name, data, partial=True)
    assert len(dataset.vocabulary) == CLASSES[name]
    assert not dataset.complete
    for index, expected in enumerate(MASKS[name]):
        item = dataset[index]
        np.testing.assert_array_equal(item['samples'].mask, expected)
        assert item['images'].shape == (3, 2, 3)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('voc21', 'voc21_sclip'),
        ('voc20', 'voc20_clearclip'),
        ('context60', 'context60_sclip'),
        ('context59', 'context59_sclip'),
        ('coco_object', 'coco_object_clearclip'),
        ('coco_stuff', 'coco_stuff_sclip'),
        ('ade20k', 'ade20k_sclip'),
        ('cityscapes', 'cityscapes_sclip'),
    ],
)
def test_class_files_keep_the_order_of_the_labels(data, name, words):
    prepare(name, data)
    dataset = BenchmarkSegmentation(name, data, words, partial=True)
    np.testing.assert_array_equal(dataset[0]['samples'].mask, MASKS[name][0])
    assert (dataset.vocabulary.background is None) == (CLASSES[name] not in (21, 60, 81))


def test_limit_and_digest(data):
    prepare('coco_stuff', data)
    root = data / 'coco_stuff164k'
    whole = BenchmarkSegmentation('coco_stuff', root, partial=True)
    first = BenchmarkSegmentation('coco_stuff', root, partial=True, limit=1)
    assert (len(whole), len(first)) == (2, 1)
    assert whole.digest == BenchmarkSegmentation('coco_stuff', data, partial=True).digest != first.digest
    mask = root / 'annotations/val2017/000000000285_labelTrainIds.png'
    Image.new('L', (3, 2)).save(mask)
    assert BenchmarkSegmentation('coco_stuff', data, partial=True).digest != whole.digest


def test_complete(data, monkeypatch):
    """What complete means is the published number of images."""
    facts = find_benchmark('ADE20K')
    monkeypatch.setitem(BENCHMARKS, 'ade20k', type(facts)(**{**vars(facts), 'num_images': 1}))
    assert BenchmarkSegmentation('ade20k', data).complete
    assert not BenchmarkSegmentation('ade20k', data, limit=0).complete


def test_from_a_config(data):
    config = {'type': 'BenchmarkSegmentation', 'benchmark': 'voc21', 'root': str(data), 'partial': True}
    assert len(DATASETS.build(config)) == 1


def without(*paths: str):
    def spoil(data):
        for path in paths:
            (data / path).unlink()

    return spoil


def without_converted(data):
    for path in (data / 'coco_stuff164k/annotations').rglob('*TrainIds.png'):
        path.unlink()


MISSING = {
    'nothing': (
        'voc21',
        lambda data: (data / 'VOCdevkit').rename(data / 'x'),
        'VOC21 not found in .*download it from http',
    ),
    'one mask': (
        'voc21',
        without('VOCdevkit/VOC2012/SegmentationClass/2007_000033.png'),
        r'1 of 1 files are not in SegmentationClass: 2007_000033.png; download them from http.*tar$',
    ),
    'one image': (
        'coco_stuff',
        without('coco_stuff164k/images/val2017/000000000285.jpg'),
        r'1 of 2 files are not in images/val2017: 000000000285.jpg; download them from .*val2017.zip',
    ),
    'list': (
        'voc21',
        without('VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt'),
        "no split 'val'. Splits: train; download them from",
    ),
    'conversion': (
        'coco_object',
        without_converted,
        r'2 of 2 files are not in annotations/val2017: 000000000139_instanceTrainIds.png, .*'
        r'create them with `clipdense prepare coco_object .*coco_stuff164k`',
    ),
    'context list': (
        'context59',
        without('VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt'),
        'create them with `clipdense prepare context',
    ),
    'half of the archive': (
        'cityscapes',
        lambda data: None,
        'found 1 of 500 images; download the rest from https://www.cityscapes',
    ),
}  # fmt: skip


@pytest.mark.parametrize(('name', 'spoil', 'message'), MISSING.values(), ids=MISSING)
def test_what_is_missing_is_named(data, name, spoil, message):
    prepare(name, data)
    spoil(data)
    with pytest.raises(InputError, match=message) as told:
        BenchmarkSegmentation(name, data)
    assert '\n' not in str(told.value)


@pytest.mark.parametrize(
    ('name', 'path', 'message'),
    [
        ('voc21', 'VOCdevkit/VOC2012/SegmentationClass/2007_000033.png', 'is a color image'),
        (
            'ade20k',
            'ade/ADEChallengeData2016/annotations/validation/ADE_val_00000001.png',
            'is a color image',
        ),
    ],
)
def test_masks_in_color(data, name, path, message):
    Image.new('RGB', (3, 2), (128, 0, 0)).save(data / path)
    with pytest.raises(InputError, match=message):
        BenchmarkSegmentation(name, data, partial=True)[0]


def test_labels_that_are_no_class(data):
    path = data / 'ade/ADEChallengeData2016/annotations/validation/ADE_val_00000001.png'
    Image.new('L', (3, 2), 151).save(path)
    with pytest.raises(InputError, match=r'classes are 1 to 150, 0 and 255 are ignored, .* 151: 6'):
        BenchmarkSegmentation('ade20k', data, partial=True)[0]


def test_unknown_names():
    with pytest.raises(InputError, match=r"'voc22'. Did you mean 'voc21'\? Use voc21, .* VOC format"):
        find_benchmark('voc22')


def test_another_number_of_classes(data):
    with pytest.raises(InputError, match='cannot rename its classes in order'):
        BenchmarkSegmentation('voc21', data, Vocabulary(('ship', 'cot')), partial=True)
