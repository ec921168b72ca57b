"""Batches on their way into the model."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import functional as official

from clipdense.clip.preprocess import Preprocess
from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.registry import MODELS
from clipdense.structures import SegmentationSample
from clipdense.utils.errors import InputError

EVERY_LEVEL = torch.arange(768, dtype=torch.int32).remainder(256).to(torch.uint8).view(1, 3, 16, 16)
NUMBERS = {'mean': [0.1, 0.2, 0.3], 'std': [0.4, 0.5, 0.6]}


@pytest.mark.parametrize(
    ('settings', 'mean', 'std'),
    [
        ({}, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ({'mean': 'imagenet'}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ({'mean': 'half'}, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        (NUMBERS, *NUMBERS.values()),
    ],
    ids=['openai', 'imagenet', 'half', 'numbers'],
)
def test_equals_torchvision_to_the_last_bit(settings, mean, std):
    expected = official.normalize(official.to_tensor(EVERY_LEVEL[0].permute(1, 2, 0).numpy()), mean, std)
    found = MODELS.build({'type': 'ImagePreprocessor', **settings})({'images': EVERY_LEVEL})['images']
    assert torch.equal(found[0], expected)


def test_equals_the_preprocessing_of_the_weights():
    found = ImagePreprocessor('openai')({'images': EVERY_LEVEL})['images']
    assert torch.equal(found, Preprocess.named('openai', 16).normalize(EVERY_LEVEL))


def test_images_of_several_sizes_stay_a_list():
    images = [torch.zeros(3, 4, 5, dtype=torch.uint8), torch.full((3, 2, 2), 255, dtype=torch.uint8)]
    found = ImagePreprocessor('half')({'images': images})['images']
    assert [image.shape for image in found] == [(3, 4, 5), (3, 2, 2)]
    assert (found[0] == -1).all()
    assert (found[1] == 1).all()
    assert images[1].dtype == torch.uint8


def test_other_entries_pass():
    sample = SegmentationSample('a.jpg', (2, 2), torch.zeros(2, 2, dtype=torch.int64))
    data = {
        'images': EVERY_LEVEL,
        'token_ids': torch.ones(1, 7),
        'samples': [sample],
        'names': ['x'],
        'n': None,
    }
    found = ImagePreprocessor()(data)
    assert found.keys() == data.keys()
    assert torch.equal(found['token_ids'], data['token_ids'])
    assert (found['samples'], found['names'], found['n']) == ([sample], ['x'], None)
    assert torch.equal(data['images'], EVERY_LEVEL)  # the batch itself is untouched


def test_batches_without_images_pass():
    assert ImagePreprocessor()({'labels': torch.ones(2)})['labels'].tolist() == [1, 1]


def test_moves_to_the_device_of_the_model():
    found = torch.nn.Sequential(ImagePreprocessor()).to('meta')[0](
        {'images': EVERY_LEVEL, 'x': torch.ones(1)}
    )
    assert {value.device.type for value in found.values()} == {'meta'}


def test_statistics_are_no_part_of_the_weights():
    assert not ImagePreprocessor().state_dict()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'mean': 'opneai'}, "Did you mean 'openai'"),
        ({'mean': [0.5, 0.5], 'std': [1, 1]}, 'three numbers'),
        ({'mean': [0.5, 0.5, 0.5], 'std': [1, 0, 1]}, 'must be positive'),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(InputError, match=message):
        ImagePreprocessor(**settings)


def test_refuses_images_that_are_normalized_already():
    with pytest.raises(ValueError, match='uint8'):
        ImagePreprocessor()({'images': torch.zeros(1, 3, 2, 2)})
