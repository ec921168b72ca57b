"""The VOC reader: indices as stored, classes by name, and every misfit named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.data.segmentation.datasets import LabeledImages, VOCSegmentation
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import write_mask
from clipdense.vocab.vocabulary import Vocabulary

CLASSES = ['background', 'cat', 'traffic light', 'sky']
MASKS = {
    'one': np.array([[0, 1, 255], [2, 3, 3]]),
    'two': np.array([[1, 1], [0, 0], [2, 2]]),
}
ENDINGS = {'one': '.jpg', 'two': '.PNG'}


def make(root, masks=MASKS, classes=CLASSES, split='val'):
    for name, mask in masks.items():
        image = root / 'JPEGImages' / f'{name}{ENDINGS.get(name, ".jpg")}'
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', mask.shape[::-1], (10, 200, 30)).save(image)
        write_mask(root / 'SegmentationClass' / f'{name}.png', mask)
    lists = root / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f'{split}.txt').write_text('\n'.join(masks) + '\n\n')
    if classes:
        (root / 'classes.txt').write_text('\n'.join(classes))
    return root


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / 'voc')


def test_items(folder):
    dataset = VOCSegmentation(folder)
    assert len(dataset) == 2
    for index, mask in enumerate(MASKS.values()):
        item = dataset[index]
        assert item['images'].dtype == torch.uint8
        assert item['images'].shape == (3, *mask.shape)
        assert item['samples'].size == mask.shape
        assert item['samples'].mask.dtype == torch.int64
        assert item['samples'].mask.tolist() == mask.tolist()
        assert item['samples'].image_path == str(dataset.images[index])
    assert dataset[1]['images'][:, 0, 0].tolist() == [10, 200, 30]
    assert dataset.vocabulary == Vocabulary(tuple(CLASSES), background='background')
    assert dataset.metainfo == {'vocabulary': dataset.vocabulary, 'classes': tuple(CLASSES)}


ONE = MASKS['one']
VOCABULARIES = {
    'subset': (['sky', 'cat'], [[255, 1, 255], [255, 0, 0]]),
    'another order': (['sky', 'traffic light', 'cat', 'background'], [[3, 2, 255], [1, 0, 0]]),
    'other case': (['Sky', 'CAT'], [[255, 1, 255], [255, 0, 0]]),
    'other names': (['rest', 'kitten', 'lamp', 'air'], ONE),
    'background by another name': (
        Vocabulary(('cat', 'other'), background='other'),
        [[1, 0, 255], [255, 255, 255]],
    ),
    'background and subset': (
        Vocabulary(('background', 'sky'), background='background'),
        [[0, 255, 255], [255, 1, 1]],
    ),
}


@pytest.mark.parametrize(('vocabulary', 'expected'), VOCABULARIES.values(), ids=VOCABULARIES)
def test_vocabularies(folder, vocabulary, expected):
    dataset = VOCSegmentation(folder, vocabulary=vocabulary)
    np.testing.assert_array_equal(dataset[0]['samples'].mask, expected)


@pytest.mark.parametrize('kind', ['text', 'json', 'stored json', 'without classes.txt', 'registry'])
def test_where_classes_come_from(tmp_path, kind):
    folder = make(tmp_path, classes=None if kind == 'without classes.txt' else CLASSES)
    vocabulary = Vocabulary(tuple(CLASSES), background='background', novel=frozenset({'sky'}))
    if kind == 'text':
        (tmp_path / 'names.txt').write_text('sky\ncat')
        assert VOCSegmentation(folder, vocabulary=tmp_path / 'names.txt').vocabulary.class_names == (
            'sky',
            'cat',
        )
    elif kind == 'json':
        vocabulary.save(tmp_path / 'names.json')
        assert VOCSegmentation(folder, vocabulary=str(tmp_path / 'names.json')).vocabulary == vocabulary
    elif kind == 'stored json':
        vocabulary.save(folder / 'vocabulary.json')
        assert VOCSegmentation(folder).vocabulary.novel == {'sky'}
    elif kind == 'without classes.txt':
        np.testing.assert_array_equal(VOCSegmentation(folder, vocabulary=vocabulary)[0]['samples'].mask, ONE)
    else:
        assert len(DATASETS.build({'type': 'VOCSegmentation', 'root': str(folder)})) == 2


def test_sixteen_bit_masks(tmp_path):
    names = [f'class {number}' for number in range(300)]
    dataset = VOCSegmentation(make(tmp_path, {'a': np.array([[0, 299, 65535]])}, names), ignore_index=65535)
    assert dataset[0]['samples'].mask.tolist() == [[0, 299, 65535]]


def remove(path):
    path.unlink()


@pytest.mark.parametrize(
    ('break_it', 'options', 'message'),
    [
        (
            lambda root: remove(root / 'classes.txt'),
            {},
            'has no classes.txt; write one .*or pass',
        ),
        (lambda root: None, {'split': 'vla'}, "no split 'vla'. Did you mean 'val'. Splits: val"),
        (
            lambda root: None,
            {'vocabulary': ['cats', 'sky']},
            r'1 class name not in the dataset \(cats\).*mean .cat',
        ),
        (lambda root: None, {'ignore_index': 3}, "ignore_index 3 is the index of a class \\('sky'\\)"),
        (
            lambda root: remove(root / 'JPEGImages/one.jpg'),
            {},
            '1 of 2 images .*val.txt are not in .*JPEGImages: one',
        ),
        (
            lambda root: remove(root / 'SegmentationClass/two.png'),
            {},
            '1 of 2 .* are not in .*SegmentationClass: two',
        ),
        (lambda root: (root / 'ImageSets/Segmentation/val.txt').write_text(' \n'), {}, 'val.txt is empty'),
        (lambda root: remove(root / 'ImageSets/Segmentation/val.txt'), {}, 'has no lists'),
        (lambda root: (root / 'JPEGImages').rename(root / 'Images'), {}, 'JPEGImages does not exist'),
        (lambda root: root.rename(root.with_name('moved')), {}, 'voc does not exist'),
    ],
)
def test_folders_that_do_not_fit(folder, break_it, options, message):
    break_it(folder)
    with pytest.raises(InputError, match=message):
        VOCSegmentation(folder, **options)


def test_the_first_ten_missing_images_are_named(folder):
    names = [f'p{number}' for number in range(15)]
    (folder / 'ImageSets/Segmentation/val.txt').write_text('\n'.join(names))
    with pytest.raises(InputError, match=r'15 of 15 .*: p0, p1, .* p9, \.\.\.$'):
        VOCSegmentation(folder)


def rgb_mask(root):
    Image.new('RGB', (3, 2), (128, 0, 0)).save(root / 'SegmentationClass/one.png')


BROKEN = {
    'size': (
        lambda root: write_mask(root / 'SegmentationClass/one.png', np.zeros((5, 4), int)),
        r'one.png is 4 x 5, but its image one.jpg 3 x 2',
    ),
    'label': (
        lambda root: write_mask(root / 'SegmentationClass/one.png', np.array([[37, 37, 0], [4, 255, 1]])),
        'classes are 0 to 3, 255 is ignored, and the pixel counts by label are 4: 1, 37: 2, 0: 1, 1: 1, 255',
    ),
    '16-bit label': (
        lambda root: write_mask(root / 'SegmentationClass/one.png', np.array([[500, 0, 0], [0, 0, 0]])),
        'by label are 500: 1, 0: 5',
    ),
    'colors': (rgb_mask, 'one.png is a color image'),
    'image': (lambda root: (root / 'JPEGImages/one.jpg').write_bytes(b'<html>'), 'one.jpg is a web page'),
    'mask': (lambda root: (root / 'SegmentationClass/one.png').write_bytes(b''), 'one.png is empty'),
}


@pytest.mark.parametrize(('break_it', 'message'), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_named_and_counted(folder, break_it, message):
    break_it(folder)
    dataset = VOCSegmentation(folder)
    with pytest.raises(InputError, match=message):
        dataset[0]
    report = dataset.check()
    assert (report.images, len(report.faults)) == (1, 1)
    assert '1 images without problems, 1 with problems' in str(report)
    assert report.faults[0] in str(report)


def test_check_counts_pixels(folder):
    report = VOCSegmentation(folder).check()
    assert report.pixels == {'background': 3, 'cat': 3, 'traffic light': 3, 'sky': 2}
    assert (report.images, report.ignored, report.faults) == (2, 1, [])
    assert '  cat: 25.00%' in str(report)


def test_rotated_photographs_fit_masks_drawn_as_displayed(tmp_path):
    folder = make(tmp_path, {'one': np.zeros((2, 3), int)})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (2, 3)).save(folder / 'JPEGImages/one.jpg', exif=exif)
    assert VOCSegmentation(folder)[0]['samples'].size == (2, 3)


def test_real_streets(real_data):
    folder = real_data('camvid')
    dataset = VOCSegmentation(folder, 'val')
    assert len(dataset) == len((folder / 'ImageSets/Segmentation/val.txt').read_text().split())
    assert dataset.vocabulary.background is None
    sample = dataset[0]['samples']
    stored = np.asarray(Image.open(dataset.masks[0]))
    assert sample.size == (360, 480)
    np.testing.assert_array_equal(sample.mask, stored)
    assert set(np.unique(stored)) <= {*range(11), 255}


def test_real_streets_by_name(real_data):
    everything = VOCSegmentation(real_data('camvid'), 'train')
    some = VOCSegmentation(real_data('camvid'), 'train', ['car', 'road'])
    stored, asked = everything[5]['samples'].mask, some[5]['samples'].mask
    for index, name in enumerate(everything.vocabulary.class_names):
        expected = {'car': 0, 'road': 1}.get(name, 255)
        assert (asked[stored == index] == expected).all()


def test_masks_of_another_folder(folder):
    (folder / 'SegmentationClass').rename(folder / 'SegmentationClassAug')
    dataset = VOCSegmentation(folder, mask_folder='SegmentationClassAug')
    np.testing.assert_array_equal(dataset[0]['samples'].mask, MASKS['one'])


ZERO = {
    'in order': (None, [[255, 0, 255], [1, 2, 2]]),
    'by name': (Vocabulary(('sky', 'cat')), [[255, 1, 255], [255, 0, 0]]),
    'new names': (Vocabulary(('kitten', 'lamp', 'air')), [[255, 0, 255], [1, 2, 2]]),
}


@pytest.mark.parametrize(('vocabulary', 'expected'), ZERO.values(), ids=ZERO)
def test_zero_may_be_unlabeled(folder, vocabulary, expected):
    """Then the first class is 1 in the files."""
    images, masks = [folder / 'JPEGImages/one.jpg'], [folder / 'SegmentationClass/one.png']
    stored = Vocabulary(('cat', 'traffic light', 'sky'))
    dataset = LabeledImages(folder, images, masks, stored, vocabulary, zero_is_unlabeled=True)
    np.testing.assert_array_equal(dataset[0]['samples'].mask, expected)


def test_digest_is_of_masks_and_images(folder):
    before = VOCSegmentation(folder).digest
    assert VOCSegmentation(folder, vocabulary=['sky', 'cat']).digest == before  # words are not its matter
    (folder / 'JPEGImages/one.jpg').write_bytes((folder / 'JPEGImages/one.jpg').read_bytes() + b'\0')
    longer = VOCSegmentation(folder).digest
    write_mask(folder / 'SegmentationClass/one.png', np.array([[0, 1, 255], [2, 3, 2]]))
    assert len({before, longer, VOCSegmentation(folder).digest}) == 3
