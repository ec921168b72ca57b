"""Adapters from labeled images, masks and boxes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.data.labeled import LabeledData
from clipdense.inference.adapters import make_adapter, read_adapter
from clipdense.inference.classifier import Classifier
from clipdense.inference.segmenter import Segmenter
from clipdense.methods.adapters.pixels import image_keys
from clipdense.tasks.adapters import source_digest
from clipdense.utils.errors import InputError

NAMES = ['hot dog', 'cat', 'dog']
pytestmark = pytest.mark.filterwarnings('ignore:the best', 'ignore:the cache does not')


def pixels_of(path):
    return np.asarray(Image.open(path))


class TestImages:
    def test_keys_are_the_embeddings_of_the_images(self, clip, pets):
        made = make_adapter(clip, LabeledData(pets), cache=False)
        assert made.class_names == ('cat', 'dog', 'hot dog')
        assert (made.counts.tolist(), made.search) == ([6, 6, 6], None)
        assert (made.origin.kind, made.origin.weights) == ('images', source_digest(clip))
        image = clip.preprocess(Image.open(pets / 'dog/3.png'))[None]
        with torch.no_grad():
            expected = clip.encode_image(image, normalize=True)[0]
        assert (made.keys[6:12] @ expected).max() > 0.999

    def test_validation_with_the_rest(self, clip, pets, tmp_path):
        labels = LabeledData(pets, shots=2, validation='rest')
        made = make_adapter(clip, labels, cache=False)
        assert (made.counts.tolist(), made.search.count) == ([2, 2, 2], 12)
        assert made.search.best == 1.0
        made.save(tmp_path / 'a.safetensors')
        classifier = Classifier.from_pretrained(clip, cache=False, adapter=tmp_path / 'a.safetensors')
        assert classifier(pixels_of(pets / 'dog/5.png'), NAMES).top(1)[0][0] == 'dog'
        assert read_adapter(tmp_path / 'a.safetensors').search == made.search

    def test_the_draw_depends_on_the_seed(self, clip, pets):
        first, again, other = (
            make_adapter(clip, LabeledData(pets, shots=2, seed=seed), cache=False).keys for seed in (0, 0, 1)
        )
        assert_close(first, again)
        assert not torch.allclose(first, other)

    @pytest.mark.parametrize(
        ('method', 'options'),
        [('tip_f', {'crops': 2}), ('clip_adapter', {'sides': 'both', 'ratio': 0.8, 'reduction': 1})],
    )
    def test_trained(self, clip, pets, method, options):
        options = {'epochs': 60, 'lr': 0.01, **options}
        made = make_adapter(clip, LabeledData(pets, shots=3), method, options=options, cache=False)
        assert not any(one.requires_grad for one in made.parameters())
        classifiers = [Classifier.from_pretrained(clip, cache=False, adapter=one) for one in (made, None)]
        sure = [
            sum(
                one(pixels_of(pets / f'{folder}/{number}.png'), NAMES).probabilities[index]
                for index, folder in enumerate(['hot_dog', 'cat', 'dog'])
                for number in range(6)
            )
            for one in classifiers
        ]
        assert sure[0] > sure[1]


class TestMasks:
    def test_keys_are_means_of_pixel_embeddings(self, clip, voc):
        segmenter = Segmenter.from_pretrained(clip, 'maskclip_no_residual', cache=False)
        made = make_adapter(segmenter.model, LabeledData(voc), cache=False)
        assert made.counts.tolist() == [2, 2, 2]
        assert (made.origin.kind, made.origin.method) == ('pixels', 'maskclip_no_residual')
        assert made.origin.weights == source_digest(clip)

    def test_segmenting_with_it(self, clip, voc):
        made = make_adapter(
            clip, LabeledData(voc, validation='val'), dense_method='maskclip_no_residual', cache=False
        )
        assert made.search.metric == 'mean_iou'
        assert made.search.best > made.search.zero_shot
        made.set_strength(50.0, made.beta)
        segmenter = Segmenter.from_pretrained(clip, 'maskclip_no_residual', cache=False, adapter=made)
        image = pixels_of(voc / 'JPEGImages/4.png')
        found = segmenter(image, ['cat', 'dog', 'hot_dog']).mask
        plain = Segmenter.from_pretrained(clip, 'maskclip_no_residual', cache=False)(
            image, ['cat', 'dog', 'hot_dog']
        ).mask
        mask = pixels_of(voc / 'SegmentationClass/4.png')
        inside = mask != 255
        assert (found == mask)[inside].mean() > max(0.7, (plain == mask)[inside].mean())

    def test_groups_and_thin_classes(self, clip):
        model = Segmenter.from_pretrained(clip, 'maskclip', cache=False).model
        image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
        mask = torch.zeros(32, 32, dtype=torch.int64)
        mask[:, 5] = 1  # a line, never most of a cell
        keys, labels = image_keys(model, image, mask, 255, 3, torch.Generator().manual_seed(0))
        assert labels.tolist() == [0, 0, 0, 1]
        assert_close(keys.norm(dim=1), torch.ones(4))

    def test_all_pixels_ignored(self, clip, voc, tmp_path):
        root = tmp_path / 'voc'
        shutil.copytree(voc, root)
        for path in (root / 'SegmentationClass').iterdir():
            Image.fromarray(np.full((32, 32), 255, np.uint8)).save(path)
        with pytest.raises(InputError, match=r'no labeled examples: .* all pixels ignored'):
            make_adapter(clip, LabeledData(root), dense_method='maskclip', cache=False)


def test_boxes_as_images(clip, voc):
    made = make_adapter(clip, LabeledData(voc, 'boxes'), cache=False)
    assert (made.class_names, made.counts.tolist(), made.origin.kind) == (
        ('cat', 'dog', 'hot_dog'),
        [1, 1, 1],
        'images',
    )
    crop = Image.open(voc / 'JPEGImages/0.png').crop((8, 8, 24, 24))
    with torch.no_grad():
        expected = normalize(clip.encode_image(clip.preprocess(crop)[None]), dim=1)[0]
    assert made.keys[made.labels == 1][0] @ expected > 0.99


@pytest.mark.parametrize(
    ('labels', 'method', 'settings', 'message'),
    [
        ({}, 'naclip', {}, "method 'naclip' makes no adapter; methods that do: clip_adapter, tip, tip_f"),
        ({}, 'tip', {'options': {'gamma': 1}}, "method 'tip' has no option 'gamma'"),
        ({}, 'tip', {'options': {'alpha': -1}}, 'alpha must be at least 0, got -1'),
        ({}, 'tip', {'options': {'crops': 0}}, 'crops must be a whole number of at least 1, got 0'),
        ({}, 'tip', {'dense_method': 'maskclip'}, 'the examples are images: remove --dense-method'),
        ({}, 'tip_f', {'options': {'epochs': 0}}, 'epochs must be a whole number of at least 1, got 0'),
        ({}, 'tip_f', {'options': {'lr': float('nan')}}, 'lr must be a number above 0, got nan'),
        ({}, 'clip_adapter', {'options': {'ratio': 2}}, 'ratio must be a number between 0 and 1, got 2'),
        ({}, 'clip_adapter', {'options': {'sides': 'x'}}, "sides must be 'image', 'text' or 'both', got 'x'"),
        (
            {'shots': 2, 'validation': 'rest'},
            'tip',
            {'options': {'alpha': 1.0}},
            'alpha is given and would be searched too',
        ),
    ],
)
def test_refused(clip, pets, labels, method, settings, message):
    with pytest.raises(InputError, match=message):
        make_adapter(clip, LabeledData(pets, **labels), method, cache=False, **settings)


def test_a_model_that_does_not_embed_them(clip, voc, pets):
    segmenter = Segmenter.from_pretrained(clip, 'maskclip', cache=False).model
    with pytest.raises(InputError, match='labeled images need weights of a CLIP, not of a DenseCLIP'):
        make_adapter(segmenter, LabeledData(pets))
