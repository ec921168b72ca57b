"""Zero-shot classification: numbers by hand, then tiny models."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from clipdense.clip.model import build_clip
from clipdense.clip.preprocess import Preprocess
from clipdense.data.classification.datasets import LabeledFolder
from clipdense.data.scenes import SceneLabels
from clipdense.data.transforms import CenterCrop
from clipdense.evaluation.classification import ZeroShotClassification, accuracy, class_scores, label_ranks
from clipdense.registry import EVALUATIONS
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.tokenizer import Tokenizer
from clipdense.vocab.vocabulary import Vocabulary

NAN = math.nan


@pytest.mark.parametrize(
    ('scores', 'label', 'rank'),
    [
        ([0.9, 0.5, 0.1], 0, 0),
        ([0.9, 0.5, 0.1], 1, 1),
        ([0.9, 0.5, 0.1], 2, 2),
        ([0.5, 0.5, 0.1], 0, 1),
        ([0.3, 0.3, 0.3], 1, 2),
        ([NAN, 0.5, 0.1], 1, 1),
        ([NAN, 0.5, 0.1], 0, 2),
        ([NAN, NAN, NAN], 2, 2),
        ([-math.inf, -math.inf], 0, 1),
        ([0.0], 0, 0),
    ],
    ids=['best', 'second', 'last', 'tie', 'all equal', 'other nan', 'own nan', 'all nan', 'all -inf', 'only'],
)
def test_label_ranks(scores, label, rank):
    assert label_ranks(torch.tensor([scores]), torch.tensor([label])).tolist() == [rank]


def test_accuracy():
    ranks = torch.tensor([0, 0, 1, 4, 5])
    assert [accuracy(ranks, k) for k in (1, 2, 5, 6)] == [0.4, 0.6, 0.8, 1.0]
    assert math.isnan(accuracy(ranks[:0], 1))


def test_a_class_scores_as_the_best_of_its_queries():
    queries = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    plain = ClassEmbeddings(queries, torch.tensor([0, 1, 2]), 3)
    synonyms = ClassEmbeddings(queries, torch.tensor([1, 0, 1]), 2)
    embeddings = torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    assert torch.allclose(class_scores(embeddings, plain), torch.tensor([[0.8, 0.96, 0.6], [0.0, 0.8, 1.0]]))
    assert torch.allclose(class_scores(embeddings, synonyms), torch.tensor([[0.96, 0.8], [0.8, 1.0]]))


COLOURS = {
    'red': (1.0, 0.0, 0.0),
    'green': (0.0, 1.0, 0.0),
    'blue': (0.0, 0.0, 1.0),
    'crimson': (1.0, 0.0, 0.1),
}


class ColourClip(nn.Module):
    """Knows colors: an image is its mean RGB, a text is a row of a table."""

    unit_prompts = True

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.inside = nn.Dropout(0.5)
        self.preprocess = Preprocess(4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self.tokenizer = Tokenizer(8)
        self.table = {self.tokenizer(name)[0, 1]: torch.tensor(rgb) for name, rgb in COLOURS.items()}
        self.sizes = []

    def encode_image(self, images, normalize=False):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.sizes.append(tuple(images.shape))
        return F.normalize(self.inside(images.mean((2, 3))) * self.scale, dim=-1)

    def encode_text(self, token_ids, normalize=False):
        return F.normalize(torch.stack([self.table[int(row[1])] for row in token_ids]) * self.scale, dim=-1)


class Colours(Dataset):
    """Images of one colour with labels."""

    def __init__(self, images, class_names=('red', 'green', 'blue'), size=4):
        self.images, self.class_names, self.size = images, class_names, size

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        rgb, label = self.images[index]
        images = torch.tensor(rgb, dtype=torch.uint8).view(3, 1, 1).expand(3, self.size, self.size)
        return {'images': images, 'labels': label}


RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)
IMAGES = [(RED, 0), (RED, 0), (GREEN, 1), (RED, 1), (BLUE, 2), (GREY, 0), (BLUE, -1)]


def evaluate(images=IMAGES, clip=None, **settings):
    settings = {'templates': 'name', 'batch_size': 2, **settings}
    return ZeroShotClassification(Colours(images), **settings)(clip or ColourClip())


def test_numbers_by_hand():
    # Right: red, red, green, blue; wrong: the red one labelled green, the grey one, where all classes tie.
    report = evaluate()
    expected = {'top1': 4 / 6, 'top5': 1.0, 'chance': 1 / 3, 'count': 6}
    assert report == pytest.approx({f'zero_shot/{key}': value for key, value in expected.items()})


def test_each_class_and_the_mean_of_classes():
    report = evaluate(per_class=True, name='x')
    expected = {'red': 2 / 3, 'green': 1 / 2, 'blue': 1.0}
    assert {key: report[f'x/per_class/{key}'] for key in expected} == pytest.approx(expected)
    assert report['x/mean_per_class'] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_classes_without_images_do_not_count_in_the_mean():
    report = evaluate([(RED, 0), (RED, 1)], per_class=True)
    assert report['zero_shot/mean_per_class'] == 0.5
    assert 'zero_shot/per_class/blue' not in report


def test_splits_are_scored_among_their_own_names_and_among_all():
    report = evaluate(splits={'base': ['green', 'red'], 'novel': ['blue']})
    # Of the five red and green images three are right, whether blue is offered or not.
    assert report['zero_shot/base/top1'] == report['zero_shot/base/generalised_top1'] == 3 / 5
    assert report['zero_shot/novel/top1'] == report['zero_shot/novel/generalised_top1'] == 1
    assert [report[f'zero_shot/{split}/chance'] for split in ('base', 'novel')] == [1 / 2, 1]
    assert [report[f'zero_shot/{split}/count'] for split in ('base', 'novel')] == [5, 1]


def test_names_outside_the_split_can_only_harm():
    report = evaluate([(RED, 1), (GREEN, 1)], splits={'novel': ['green']})
    assert report['zero_shot/novel/top1'] == 1
    assert report['zero_shot/novel/generalised_top1'] == 0.5


def test_a_vocabulary_with_synonyms():
    names = Vocabulary(('red', 'green', 'blue'), {'red': ('crimson',)})
    report = evaluate([((200, 0, 20), 0), (GREEN, 1)], class_names=names)
    assert report['zero_shot/top1'] == 1


def test_a_collapsed_model_gets_nothing_for_its_ties():
    clip = ColourClip()
    clip.table = {key: torch.ones(3) for key in clip.table}
    assert evaluate(clip=clip)['zero_shot/top1'] == 0


@pytest.mark.parametrize('value', [NAN, float('inf'), -float('inf')])
def test_refuses_a_model_of_nan(value):
    clip = ColourClip()
    clip.encode_image = lambda images, normalize: images.mean((2, 3)) * value
    with pytest.raises(InputError, match='zero_shot: the embeddings of the images are not finite'):
        evaluate(clip=clip)


def test_the_model_is_left_as_it_was():
    clip = ColourClip().train()
    clip.inside.eval()
    evaluate(clip=clip)
    assert (clip.training, clip.inside.training) == (True, False)
    assert torch.is_grad_enabled()


class TestImageSizes:
    def sizes(self, dataset):
        clip = ColourClip()
        ZeroShotClassification(dataset, templates='name')(clip)
        return {shape[2:] for shape in clip.sizes}

    def test_datasets_without_transforms_are_cropped_as_the_weights_want(self):
        assert self.sizes(Colours([(RED, 0)], size=4)) == self.sizes(Colours([(RED, 0)], size=9)) == {(4, 4)}

    @pytest.mark.parametrize(('transform', 'size'), [(None, 4), (CenterCrop(6), 6)])
    def test_a_transform_is_honoured_and_nothing_is_changed(self, tmp_path, transform, size):
        for name, shape in (('red', (9, 5)), ('green', (5, 12))):
            (tmp_path / name).mkdir()
            Image.new('RGB', shape, name).save(tmp_path / name / '1.png')
        dataset = LabeledFolder(tmp_path, transform)
        assert self.sizes(dataset) == {(size, size)}
        assert dataset.transform is transform


@pytest.mark.parametrize(
    ('settings', 'images', 'message'),
    [
        ({'class_names': ['red', 'green']}, IMAGES, 'label 2 in the dataset, but only 2 class names'),
        (
            {'class_names': ['red', 'blue', 'green']},
            IMAGES,
            "another order .* label 1 is 'green', which is number 2",
        ),
        ({'class_names': ['x', 'red', 'green', 'blue']}, IMAGES, "label 0 is 'red', which is number 1"),
        ({}, [(RED, -2)], 'label -2 in the dataset; labels are 0 to 2, or -1'),
        ({}, [(RED, -1)], 'the dataset has no images that can be read'),
        ({}, [], 'the dataset has no images that can be read'),
        ({'class_names': []}, IMAGES, 'vocabulary is empty'),
        ({'splits': {'novel': ['gren']}}, IMAGES, "Did you mean 'green'"),
        ({'splits': {'novel': []}}, IMAGES, 'at least one class'),
        ({'splits': {'novel': ['red', 'Red']}}, IMAGES, 'listed twice'),
    ],
)
def test_refuses(settings, images, message):
    with pytest.raises(InputError, match=message):
        evaluate(images, **settings)


def test_refuses_a_dataset_without_names():
    with pytest.raises(InputError, match='give class_names'):
        ZeroShotClassification([])


TINY = {
    'image': {
        'image_size': 32,
        'patch_size': 16,
        'width': 64,
        'layers': 1,
        'num_heads': 1,
        'mlp_width': 64,
        'embed_dim': 16,
    },
    'text': {'width': 64, 'layers': 1, 'num_heads': 1, 'mlp_width': 64, 'embed_dim': 16},
}


@pytest.mark.parametrize('workers', [0, 2])
def test_scenes_with_a_real_model_from_a_config(workers):
    scenes = {'type': 'SceneLabels', 'split': 'unseen', 'num_images': 24, 'difficulty': 'easy'}
    config = {'type': 'ZeroShotClassification', 'dataset': scenes, 'templates': 'name', 'batch_size': 10}
    report = EVALUATIONS.build({**config, 'num_workers': workers})(build_clip(TINY))
    classes = len(SceneLabels('unseen', 1, 'easy').class_names)
    assert report['zero_shot/count'] == 24
    assert report['zero_shot/chance'] == 1 / classes
    assert 0 <= report['zero_shot/top1'] <= report['zero_shot/top5'] <= 1
