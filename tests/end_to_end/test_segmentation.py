"""From weights on disk to a mask, through the doors that users take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import clipdense
from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.engine.launch import test as evaluate
from clipdense.tasks.options import SegmentationOptions

TEXT = TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16)
TOWERS = {
    'vit': VitSize(image_size=32, patch_size=8, width=32, layers=2, num_heads=2, mlp_width=64, embed_dim=16),
    'resnet': ResNetSize(image_size=32, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=16),
}


@pytest.fixture(params=TOWERS)
def weights(request, tmp_path, monkeypatch):
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path / 'cache'))
    torch.manual_seed(0)
    path = tmp_path / 'clip.safetensors'
    save(build_clip(ClipSize(TOWERS[request.param], TEXT)), path)
    return path


@pytest.mark.parametrize('size', [(1, 1), (7, 400), (600, 400)])
def test_masks_have_the_size_of_the_image(weights, size):
    segmenter = clipdense.Segmenter.from_pretrained(
        weights, options=SegmentationOptions(short_side=32, window=32)
    )
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    result = segmenter(Image.fromarray(noise), ['car', 'road', 'tree'])
    assert result.mask.shape == size[::-1]
    assert result.scores.min() >= 0
    assert result.draw().size[0] >= size[0]


@pytest.mark.slow
def test_an_image_of_24_million_pixels(weights):
    segmenter = clipdense.Segmenter.from_pretrained(weights)
    result = segmenter(Image.new('RGB', (6000, 4000), 'grey'), ['car', 'road'])
    assert result.mask.shape == (4000, 6000)


def test_words_can_be_changed_between_images(weights):
    segmenter = clipdense.Segmenter.from_pretrained(weights)
    image = Image.effect_noise((40, 40), 60)
    first = segmenter(image, ['car', 'road'])
    second = segmenter(image, 'a, b, c')
    assert (len(first.vocabulary), len(second.vocabulary)) == (2, 3)
    assert np.array_equal(segmenter(image).mask, second.mask)


def test_classifier_and_batches_agree(weights):
    classifier = clipdense.Classifier.from_pretrained(weights)
    images = [Image.effect_noise((40, 50), 10 * index + 10) for index in range(5)]
    together = [one.probabilities for _, one in classifier.stream(images, ['cat', 'dog'], batch_size=3)]
    alone = [classifier(image).probabilities for image in images]
    assert np.allclose(together, alone, atol=1e-6)
    assert np.allclose(np.sum(together, axis=1), 1)


def test_camvid_through_the_config(weights, real_data, tmp_path):
    """Real photographs in VOC format, end to end; random weights know nothing, but every class is counted."""
    options = {
        'test_dataloader.dataset.root': str(real_data('camvid')),
        'test_dataloader.num_workers': 0,
        'model.slide': {'short_side': 32, 'window': 32, 'stride': 32},
    }
    metrics = evaluate('dense_clip/maskclip_voc', weights, work_dir=tmp_path / 'work', options=options)
    miou = next(value for name, value in metrics.items() if name.endswith('mIoU'))
    assert 0 <= miou < 0.3
