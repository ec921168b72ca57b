"""Crops of labeled images, and classes that training must not see."""

from __future__ import annotations

import pytest
import torch

from clipdense.data.segmentation.crops import SegmentationCrops, ZeroShotSplit
from clipdense.structures import SegmentationSample
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary


class Images:
    """One image whose red channel is its mask, times ten."""

    ignore_index = 255

    def __init__(self, mask, vocabulary=None):
        self.mask = torch.as_tensor(mask)
        self.vocabulary = vocabulary or Vocabulary(('a', 'b', 'c'))
        self.epoch = None

    def __len__(self):
        return 3

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        image = (self.mask.clamp(max=25) * 10).to(torch.uint8).expand(3, -1, -1)
        return {'images': image, 'samples': SegmentationSample('a.jpg', tuple(self.mask.shape), self.mask)}


RAMP = torch.arange(12).view(3, 4) % 3


@pytest.mark.parametrize('scale', [(1.0, 1.0), (0.3, 3.0)])
@pytest.mark.parametrize('long_side', [None, 9])
@pytest.mark.parametrize('size', [2, 5, 30])
def test_crops_have_one_size_whatever_the_image(size, long_side, scale):
    crops = SegmentationCrops(Images(RAMP), size, long_side, scale)
    for epoch in range(5):
        crops.set_epoch(epoch)
        item = crops[epoch % 3]
        assert item['images'].shape == (3, size, size)
        assert item['images'].dtype == torch.uint8
        assert item['samples'].mask.shape == (size, size)
        assert set(item['samples'].mask.unique().tolist()) <= {0, 1, 2, 255}


def test_image_and_mask_stay_together():
    """Without scaling, a pixel's color still tells its label, mirrored or not."""
    crops = SegmentationCrops(Images(RAMP), 2, None, (1.0, 1.0), flip=0.5)
    for epoch in range(20):
        crops.set_epoch(epoch)
        item = crops[0]
        assert torch.equal(item['images'][0].long(), item['samples'].mask * 10)


def test_a_crop_larger_than_the_image_keeps_it_whole():
    item = SegmentationCrops(Images(RAMP), 6, None, (1.0, 1.0), flip=0.0)[0]
    mask = item['samples'].mask
    assert torch.equal(mask[:3, :4], RAMP)
    assert (mask[3:] == 255).all()
    assert (mask[:, 4:] == 255).all()
    assert not item['images'][:, 3:].any()


def test_a_crop_depends_on_seed_epoch_and_index_alone():
    def crop(seed, epoch, index):
        crops = SegmentationCrops(Images(torch.arange(400).view(20, 20) % 251), 6, None, seed=seed)
        crops.set_epoch(epoch)
        return crops[index]['samples'].mask

    assert torch.equal(crop(0, 1, 2), crop(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 1)):
        assert not torch.equal(crop(0, 1, 2), crop(*other))


def test_the_epoch_reaches_the_dataset_inside():
    images = Images(RAMP)
    SegmentationCrops(ZeroShotSplit(images, ['c'])).set_epoch(4)
    assert images.epoch == 4


@pytest.mark.parametrize(
    ('size', 'scale', 'flip'), [(0, (1, 2), 0.5), (4, (2, 1), 0.5), (4, (0, 1), 0.5), (4, (1, 2), 2)]
)
def test_crops_that_cannot_be_are_refused(size, scale, flip):
    with pytest.raises(InputError, match='crops need size'):
        SegmentationCrops(Images(RAMP), size, None, scale, flip)


WORDS = Vocabulary(('background', 'car', 'tree', 'sky'), {'car': ('auto',)}, 'background')
MASK = [[0, 1, 2, 3, 255]]


@pytest.mark.parametrize(
    ('options', 'names', 'mask'),
    [
        ({'pixels': 'ignore'}, ('background', 'car', 'sky'), [0, 1, 255, 2, 255]),
        ({'pixels': 'background'}, ('background', 'car', 'sky'), [0, 1, 0, 2, 255]),
        ({'pixels': 'keep'}, ('background', 'car', 'tree', 'sky'), [0, 1, 2, 3, 255]),
        ({'pixels': 'background', 'seen': ['SKY']}, ('background', 'sky'), [0, 255, 0, 1, 255]),
    ],
    ids=['ignore', 'background', 'keep', 'some seen'],
)
def test_unseen_pixels_do_what_was_asked(options, names, mask):
    split = ZeroShotSplit(Images(MASK, WORDS), ['Tree'], **options)
    assert split.vocabulary.class_names == names
    assert split[0]['samples'].mask[0].tolist() == mask
    assert split.vocabulary.background == 'background'
    assert split.metainfo['classes'] == names


def test_kept_unseen_classes_count_as_novel():
    split = ZeroShotSplit(Images(MASK, WORDS), ['tree'], pixels='keep')
    assert split.vocabulary.novel == {'tree'}
    assert split.vocabulary.synonyms == {'car': ('auto',)}
    assert ZeroShotSplit(Images(MASK, WORDS), ['tree']).vocabulary.novel == frozenset()


@pytest.mark.parametrize(
    ('words', 'options', 'message'),
    [
        (WORDS, {'unseen': ['tree'], 'seen': ['car', 'tree']}, '1 class both seen and unseen: tree'),
        (WORDS, {'unseen': ['tee']}, "'tee' is not in the vocabulary. Did you mean 'tree'"),
        (WORDS, {'unseen': ['background']}, "background 'background' cannot be unseen"),
        (WORDS, {'unseen': ['car'], 'pixels': 'void'}, "'ignore', 'background' or 'keep', got 'void'"),
        (
            Vocabulary(('a', 'b')),
            {'unseen': ['a'], 'pixels': 'background'},
            'needs a vocabulary with a background class',
        ),
    ],
    ids=['both', 'unknown', 'background', 'option', 'no background'],
)
def test_splits_that_make_no_sense_are_refused(words, options, message):
    with pytest.raises(InputError, match=message):
        ZeroShotSplit(Images(MASK, words), **options)
