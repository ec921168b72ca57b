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
from clipdense.methods.adapters.boxes import moved
from clipdense.methods.adapters.examples import examples_of
from clipdense.methods.adapters.pixels import masked_cells
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
        rng = torch.Generator().manual_seed(0)
        cells = masked_cells(model, image, mask, 255, rng)
        keys, labels = cells.keys(3, rng)
        assert labels.tolist() == [0, 0, 0, 1]
        assert_close(keys.norm(dim=1), torch.ones(4))
        drawn, labels = cells.drawn_by_class(5, rng)
        assert labels.tolist() == [0, 0, 0, 0, 0, 1]
        assert len(drawn.unique(dim=0)) == 6
        assert all((row == cells.embeddings).all(1).any() for row in drawn)

    @pytest.mark.parametrize('method', ['tip_f', 'clip_adapter'])
    def test_trained_on_other_pixels_than_the_keys(self, clip, voc, method):
        made = {
            samples: make_adapter(
                clip,
                LabeledData(voc),
                method,
                options={'samples': samples, 'lr': 0.01},
                dense_method='maskclip',
                cache=False,
            ).state_dict()
            for samples in (None, 100, 3, 0)
        }
        kind = 'keys' if method == 'tip_f' else 'image.fc.0.weight'
        default, hundred, three, keys = (one[kind] for one in made.values())
        assert_close(default, hundred, rtol=0, atol=0)
        assert not torch.allclose(three, hundred)
        assert not torch.allclose(keys, hundred)

    def test_samples_are_drawn_by_the_seed(self, clip, voc):
        model = Segmenter.from_pretrained(clip, 'maskclip', cache=False).model
        part = LabeledData(voc).open().train
        plain = examples_of(model, part)
        first, again, other = (examples_of(model, part, samples=7, seed=seed) for seed in (0, 0, 1))
        assert_close(first.keys, plain.keys, rtol=0, atol=0)
        assert plain.samples is None
        rows, labels = first.training
        assert labels.bincount().tolist() == [14, 14, 14]  # two images show each class
        assert_close(rows, again.training[0], rtol=0, atol=0)
        assert not torch.allclose(rows, other.training[0])

    @pytest.mark.parametrize('ignored', [3, 1])
    def test_ignored_pixels(self, clip, voc, tmp_path, ignored):
        root = tmp_path / 'voc'
        shutil.copytree(voc, root)
        for number in range(ignored):
            mask = Image.fromarray(np.full((32, 32), 255, np.uint8))
            mask.save(root / f'SegmentationClass/{number}.png')
        data = LabeledData(root, validation='val')
        if ignored == 1:
            assert len(make_adapter(clip, data, 'tip_f', dense_method='maskclip', cache=False)) == 4
            return
        with pytest.raises(InputError, match=r'no labeled examples: .* all pixels ignored'):
            make_adapter(clip, data, dense_method='maskclip', cache=False)


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


class TestMovedBoxes:
    def test_edges_are_moved_by_a_part_of_the_box(self, voc):
        part = LabeledData(voc, 'boxes').open().train
        found = moved(part, 20, seed=0)
        for before, after in zip(part.images, found.images, strict=True):
            assert after.labels == [label for label in before.labels for _ in range(20)]
            offsets = torch.tensor(after.boxes) - torch.tensor(before.boxes)
            assert 1 < offsets.abs().max() <= 0.15 * 16

    def test_of_a_clip(self, clip, voc):
        found = examples_of(clip, LabeledData(voc, 'boxes').open().train, samples=4)
        assert (len(found.keys), found.kind, len(found.training[0])) == (3, 'images', 12)
        assert found.training[1].bincount().tolist() == [4, 4, 4]

    def test_of_a_detector(self, voc):
        class Detector(torch.nn.Module):
            def embed_regions(self, image, boxes):
                assert (boxes >= 0).all()
                assert (boxes <= 32).all()
                return normalize(boxes, dim=1)

        part = LabeledData(voc, 'boxes').open().train
        found = examples_of(Detector(), part, samples=4)
        assert_close(found.keys[0], normalize(torch.tensor([8.0, 8, 24, 24]), dim=0))
        assert (found.keys.shape, found.training[0].shape, found.kind) == ((3, 4), (12, 4), 'regions')
        assert examples_of(Detector(), part).samples is None


@pytest.mark.parametrize(
    ('labels', 'method', 'settings', 'message'),
    [
        ({}, 'naclip', {}, "method 'naclip' makes no adapter; methods that do: clip_adapter, tip, tip_f"),
        ({}, 'tip', {'options': {'gamma': 1}}, "method 'tip' has no option 'gamma'"),
        ({}, 'tip', {'options': {'alpha': -1}}, 'alpha must be at least 0, got -1'),
        ({}, 'tip', {'options': {'alpha': 1e308}}, r'alpha and beta must be at most 1e\+06'),
        ({}, 'tip', {'options': {'balance': 'maybe'}}, "balance must be true or false, got 'maybe'"),
        ({}, 'tip', {'options': {'crops': 0}}, 'crops must be a whole number of at least 1, got 0'),
        ({}, 'tip', {'dense_method': 'maskclip'}, 'the examples are images: remove --dense-method'),
        ({}, 'tip_f', {'options': {'epochs': 0}}, 'epochs must be a whole number of at least 1, got 0'),
        ({}, 'tip_f', {'options': {'samples': 10}}, 'images are trained on their random crops'),
        ({}, 'tip_f', {'options': {'samples': -1}}, 'samples must be a whole number of at least 0, got -1'),
        ({}, 'tip', {'options': {'samples': 10}}, "method 'tip' has no option 'samples'"),
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
