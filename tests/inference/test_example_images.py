"""Classes that are given by example images, in every predictor."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import clipdense
from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.inference.example_images import comparable
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.adapters import Adapter
from clipdense.tasks.detection import DetectionRules
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
VIT = VitSize(image_size=16, patch_size=4, width=16, layers=2, num_heads=2, mlp_width=16, embed_dim=8)


@pytest.fixture(scope='module')
def clip():
    torch.manual_seed(0)
    return build_clip(ClipSize(VIT, TEXT))


@pytest.fixture
def segmenter(clip):
    return clipdense.Segmenter.from_pretrained(clip, cache=False, device='cpu')


@pytest.fixture
def classifier(clip):
    return clipdense.Classifier.from_pretrained(clip, cache=False, device='cpu')


@pytest.fixture
def folder(tmp_path):
    """Images a, b and c, a mask of the upper left corner of a, an empty one, and one of another size."""
    rng = np.random.default_rng(0)
    for name in 'abc':
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(tmp_path / f'{name}.png')
    mask = np.zeros((20, 24), np.uint8)
    Image.fromarray(mask).save(tmp_path / 'empty.png')
    Image.fromarray(mask[:10] + 1).save(tmp_path / 'small.png')
    mask[:8, :9] = 255
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    return tmp_path


def shown(folder, mask='mask.png', names=('car', 'road')):
    return Vocabulary.from_images({'logo': [(folder / 'a.png', folder / mask)]}, names)


def test_examples_only_are_means_of_pixels(segmenter, folder):
    vocabulary = Vocabulary.from_images({'a': [folder / 'a.png', folder / 'b.png'], 'c': [folder / 'c.png']})
    result = segmenter(folder / 'a.png', vocabulary)
    assert result.vocabulary == vocabulary
    pixels = [segmenter.extract_dense_features(folder / f'{one}.png').embeddings.flatten(1) for one in 'abc']
    means = [F.normalize(one.mean(1), dim=0) for one in pixels]
    expected = torch.stack([F.normalize(means[0] + means[1], dim=0), means[2]])
    torch.testing.assert_close(segmenter.embeddings.queries, expected, rtol=0, atol=1e-5)


def test_a_mask_chooses_pixels(segmenter, folder):
    vocabulary = Vocabulary.from_images(
        {'corner': [(folder / 'a.png', folder / 'mask.png')], 'c': [folder / 'c.png']}
    )
    segmenter.set_vocabulary(vocabulary)
    cells = segmenter.extract_dense_features(folder / 'a.png').embeddings
    cover = F.adaptive_avg_pool2d(
        torch.from_numpy(np.pad(np.ones((8, 9)), ((0, 12), (0, 15)))).float()[None], cells.shape[1:]
    )[0]
    expected = F.normalize(cells[:, cover >= 0.5].mean(1), dim=0)
    torch.testing.assert_close(segmenter.embeddings.queries[0], expected, rtol=0, atol=1e-5)


def test_names_keep_their_embeddings(segmenter, classifier, folder):
    for predictor in (segmenter, classifier):
        predictor.set_vocabulary(shown(folder))
        named = predictor.embedder.embed(Vocabulary(('car', 'road'))).queries
        torch.testing.assert_close(predictor.embeddings.queries[:2], named)


def test_synonyms_background_and_negatives_beside_examples(segmenter, folder):
    vocabulary = Vocabulary(
        ('car', 'logo', 'road'),
        {'road': ('street',)},
        examples=shown(folder).examples,
        negatives=('toy',),
    ).with_background(['sky', 'wall'])
    result = segmenter(folder / 'b.png', vocabulary)
    assert segmenter.embeddings.query_class.tolist() == [0, 0, 1, 2, 3, 3, 4]
    assert result.mask.max() < 4
    assert result.vocabulary == vocabulary


@pytest.mark.parametrize(('names', 'said'), [(('car', 'road'), True), ((), False)])
def test_names_beside_examples_are_said(recwarn, segmenter, folder, names, said):
    segmenter.set_vocabulary(Vocabulary(names, examples=shown(folder).examples))
    assert any('only roughly comparable' in str(one.message) for one in recwarn) == said


def test_queries_of_examples_are_moved_to_those_of_names():
    rng = torch.Generator().manual_seed(0)
    base = torch.randn(1, 16, generator=rng)
    others = F.normalize(base + 0.3 * torch.randn(200, 16, generator=rng), dim=1)
    names = F.normalize(torch.randn(6, 16, generator=rng) - 2 * base, dim=1)
    found = comparable(others[:4], names, others)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    level = (others @ names.mT).mean()
    before, after = (others @ others[:4].mT).mean() - level, (others @ found.mT).mean() - level
    assert after.abs() < 0.2 * before
    assert ((others[:4] @ found.mT).argmax(0) == torch.arange(4)).all()


def test_a_region_is_classified_as_its_crop(classifier, folder):
    vocabulary = Vocabulary.from_images(
        {'corner': [(folder / 'a.png', folder / 'mask.png')], 'c': [folder / 'c.png']}
    )
    Image.open(folder / 'a.png').crop((0, 0, 9, 8)).save(folder / 'corner.png')
    result = classifier(folder / 'corner.png', vocabulary)
    crop = classifier.clip.preprocess(Image.open(folder / 'corner.png'))[None]
    expected = classifier.clip.encode_image(crop, normalize=True)[0]
    torch.testing.assert_close(classifier.embeddings.queries[0], expected.detach(), rtol=0, atol=1e-5)
    assert result.top(1)[0][0] == 'corner'


def test_changed_files_are_embedded_again(classifier, folder):
    vocabulary = Vocabulary.from_images({'a': [folder / 'a.png'], 'b': [folder / 'b.png']})
    classifier.set_vocabulary(vocabulary)
    before = classifier.embeddings.queries
    classifier.set_vocabulary(vocabulary)
    assert classifier.embeddings.queries is before
    (folder / 'c.png').replace(folder / 'a.png')
    classifier.set_vocabulary(vocabulary)
    assert not torch.equal(classifier.embeddings.queries[0], before[0])
    os.remove(folder / 'a.png')
    classifier(folder / 'b.png')  # of what was read


def test_files_next_to_a_vocabulary_file(classifier, folder):
    (folder / 'v.yaml').write_text('classes:\n- car\n- {name: logo, examples: [[a.png, mask.png], b.png]}\n')
    result = classifier(folder / 'c.png', Vocabulary.from_file(folder / 'v.yaml'))
    assert result.vocabulary.class_names == ('car', 'logo')


@pytest.mark.parametrize(
    ('vocabulary', 'message'),
    [
        (lambda folder: shown(folder, 'none.png'), r"class 'logo': .*none.png does not exist"),
        (lambda folder: shown(folder, 'small.png'), "class 'logo': the mask .* has 24 x 10 pixels"),
        (lambda folder: shown(folder, 'empty.png'), "class 'logo': the mask .* is empty"),
        (lambda folder: shown(folder, 'a.png'), "class 'logo': .* is a color image"),
        (lambda folder: shown(folder, '.'), "class 'logo': .* is a folder"),
        (lambda folder: Vocabulary.from_images({'logo': [folder / 'x.jpg']}, ['car']), 'does not exist'),
        (lambda folder: Vocabulary.from_images({'logo': [folder / 'text.png']}, ['car']), "class 'logo': "),
    ],
)
def test_wrong_files_are_refused(segmenter, classifier, folder, vocabulary, message):
    (folder / 'text.png').write_text('not an image')
    for predictor in (segmenter, classifier):
        with pytest.raises(InputError, match=message):
            predictor.set_vocabulary(vocabulary(folder))


def test_a_whole_image_among_names_is_refused_where_it_has_no_contrast(segmenter, folder):
    with pytest.raises(InputError, match='average of their images cannot be compared with class names'):
        segmenter.set_vocabulary(Vocabulary.from_images({'logo': [folder / 'a.png']}, ['car', 'road']))


def test_one_class_is_said(classifier, folder):
    with pytest.warns(UserWarning, match='one class only'):
        classifier.set_vocabulary(Vocabulary.from_images({'logo': [folder / 'a.png']}))


def test_text_only_embedders_refuse_examples(clip, folder):
    with pytest.raises(InputError, match="class 'logo' is given by example images"):
        PromptEnsemble(clip, cache=None).embed(shown(folder))


class Regions(torch.nn.Module):
    """A detector whose embedding of a box is its size, or none."""

    rules, clip, templates = DetectionRules(), None, 'name'

    def __init__(self, embeds):
        super().__init__()
        if embeds:
            self.embed_regions = self._embed_regions

    def set_vocabulary(self, vocabulary, embeddings):
        self.asked = vocabulary, embeddings

    def predict(self, images, rules):
        raise AssertionError

    def _embed_regions(self, image, boxes):
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        return F.normalize(torch.stack([width, height], dim=1), dim=1)


class Ones:
    """An embedder."""

    def embed(self, vocabulary):
        owners = [index for _, index in vocabulary.queries]
        return ClassEmbeddings(torch.ones(len(owners), 2), torch.tensor(owners), len(vocabulary))


def test_regions_of_a_detector(folder):
    detector = clipdense.Detector(Regions(embeds=True), Ones())
    detector.set_vocabulary(
        Vocabulary.from_images(
            {'corner': [(folder / 'a.png', folder / 'mask.png')], 'whole': [folder / 'a.png']}
        )
    )
    expected = F.normalize(torch.tensor([[9.0, 8], [24, 20]]), dim=1)
    torch.testing.assert_close(detector.embeddings.queries, expected)


def test_predictors_that_cannot_use_examples(clip, folder):
    with pytest.raises(InputError, match='cannot be combined with an adapter'):
        clipdense.Classifier(clip, adapter=Adapter()).set_vocabulary(shown(folder))
    with pytest.raises(InputError, match='reads class names together with the image'):
        clipdense.Detector(Regions(embeds=False), Ones()).set_vocabulary(shown(folder))
