"""The tables below "Masks" of docs/input_contract.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.data.segmentation.datasets import LabeledImages, VOCSegmentation
from clipdense.evaluation.segmentation import SegmentationEvaluator
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_mask
from clipdense.vocab.vocabulary import Vocabulary

SECTION = 'Masks'

VALUES = np.array([[0, 1, 255, 0], [1, 1, 1, 0], [0, 0, 0, 255]], np.uint8)
CLASSES = ('background', 'cat')


def make(root, *masks, classes=CLASSES):
    """A folder in the layout of PASCAL VOC; a mask is an array, a Pillow image or None."""
    names = 'abc'[: len(masks)]
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    for name, mask in zip(names, masks, strict=True):
        Image.new('RGB', (4, 3)).save(root / 'JPEGImages' / f'{name}.jpg')
        if mask is not None:
            image = mask if isinstance(mask, Image.Image) else Image.fromarray(np.asarray(mask))
            image.save(root / 'SegmentationClass' / f'{name}.png')
    if classes:
        (root / 'classes.txt').write_text('\n'.join(classes))
    (root / 'ImageSets/Segmentation/val.txt').write_text('\n'.join(names))
    return root


def mask_of(root, **options):
    return VOCSegmentation(root, **options)[0]['samples'].mask.tolist()


def reads(mask, expected, **options):
    return lambda root: _equal(mask_of(make(root, mask), **options), expected)


def _equal(found, expected):
    assert found == np.asarray(expected).tolist()


def palette(root):
    image = Image.fromarray(VALUES)
    image.putpalette([200, 10, 10] * 256)
    assert mask_of(make(root, image)) == VALUES.tolist()


def gray(root):
    binary = (VALUES == 1).astype(np.uint8)
    assert mask_of(make(root / '1', Image.fromarray(binary * 255).convert('1'))) == binary.tolist()
    assert mask_of(make(root / '8', VALUES)) == VALUES.tolist()
    for bits in (2, 4):
        Image.fromarray(binary).convert('P').save(root / f'{bits}.png', bits=bits)
        assert read_mask(root / f'{bits}.png').tolist() == binary.tolist()


def sixteen_bits(root):
    values = np.array([[0, 300, 65535, 1]] * 3, np.uint16)
    names = [f'class {number}' for number in range(301)]
    assert mask_of(make(root, values, classes=names), ignore_index=65535) == values.tolist()


def colors(mode):
    return lambda root: mask_of(make(root, Image.new(mode, (4, 3))))


def colored(root):
    for mode in ('RGB', 'RGBA'):
        with pytest.raises(InputError, match='is a color image'):
            colors(mode)(root / mode)
    colors('LA')(root / 'LA')


def file_as_mask(root, suffix, format_):
    make(root, VALUES, None)
    Image.new('L' if format_ == 'JPEG' else 'F', (4, 3)).save(root / f'SegmentationClass/b{suffix}', format_)
    return VOCSegmentation(root)[1]


def truncated(root):
    path = make(root, VALUES) / 'SegmentationClass/a.png'
    path.write_bytes(path.read_bytes()[:-25])
    mask_of(root)


def float_tiff(root):
    Image.new('F', (4, 3)).save(root / 'a.tif')
    read_mask(root / 'a.tif')


def evaluated(*masks, predicted=0, counted=2, miou=None, classes=CLASSES):
    """The score of a labeler that answers one class."""

    def check(root):
        dataset = VOCSegmentation(make(root, *masks, classes=classes))
        answer = {'': lambda image, sample: torch.full(sample.size, predicted)}
        scores = SegmentationEvaluator(dataset).compare(answer)['']
        assert scores.classes.counted == counted
        assert miou is None or scores.mean_iou == miou

    return check


def zero_unlabeled(root):
    make(root, (VALUES == 1) * np.uint8(255))
    paths = [root / 'JPEGImages/a.jpg'], [root / 'SegmentationClass/a.png']
    dataset = LabeledImages(root, *paths, Vocabulary(CLASSES), zero_is_unlabeled=True)
    assert set(dataset[0]['samples'].mask.flatten().tolist()) == {255}


def backgrounds(root):
    for name in ('Background', '_background_', 'BACKGROUND'):
        dataset = VOCSegmentation(make(root / name, VALUES, classes=(name, 'cat')))
        assert dataset.vocabulary.background == name


TWO = (VALUES == 1) * np.uint8(255)
ZEROS, IGNORED = np.zeros_like(VALUES), np.full_like(VALUES, 255)

READ = {
    'palette PNG': palette,
    'gray PNG of 1, 2, 4 or 8 bits': gray,
    'gray PNG of 16 bits': sixteen_bits,
    'color image (RGB, RGBA, gray with alpha)': colored,
    'JPEG with the ending `.png`': lambda root: file_as_mask(root, '.png', 'JPEG'),
    'floating-point TIFF': float_tiff,
    '`.jpg` file in the folder of masks': lambda root: file_as_mask(root, '.jpg', 'JPEG'),
    'no mask for an image': lambda root: VOCSegmentation(make(root, VALUES, None)),
    'truncated file': truncated,
    'mask of another size than its image': lambda root: mask_of(make(root, np.zeros((3, 5), np.uint8))),
    '0, 1 and 255': reads(VALUES, VALUES),
    'a value that is not a class': lambda root: mask_of(make(root, np.full_like(VALUES, 7))),
    'a 16-bit value that is not a class': lambda root: mask_of(make(root, np.full((3, 4), 300, np.uint16))),
    'only 0 and 255 in all masks': reads(TWO, TWO),
    'only 0 and 255, where 0 is unlabeled too': zero_unlabeled,
    'only one class in all masks, evaluated': evaluated(TWO, counted=1, miou=1),
    'a vocabulary of one class, evaluated': evaluated(VALUES * 0, counted=1, classes=CLASSES[:1]),
    'all pixels ignored, evaluated': evaluated(IGNORED, counted=0),
    'a class in no mask that is predicted': evaluated(ZEROS, predicted=1, miou=0),
    'a class in no mask that is not predicted': evaluated(VALUES, counted=2, classes=(*CLASSES, 'dog')),
    '`ignore_index` that is a class': lambda root: VOCSegmentation(make(root, VALUES), ignore_index=1),
    '`Background`, `_background_`, `BACKGROUND` in `classes.txt`': backgrounds,
    'blank lines and comments before the last name of `classes.txt`': lambda root: mask_of(
        make(root, VALUES, classes=['background', '', 'cat'])
    ),
    'no `classes.txt` and no vocabulary': lambda root: mask_of(make(root, VALUES, classes=None)),
    'some of the classes, in any capitals': reads(VALUES, np.where(VALUES == 1, 0, 255), vocabulary=['CAT']),
    'other names, as many as there are classes': reads(VALUES, VALUES, vocabulary=['rest', 'kitten']),
    'a class that the dataset does not have': lambda root: mask_of(make(root, VALUES), vocabulary=['dog']),
}


def test_row(row, check):
    check(row, READ)
