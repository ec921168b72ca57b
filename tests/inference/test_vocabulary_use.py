"""Negatives, thresholds and templates of a vocabulary in every predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import clipdense
from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.detection import DetectedObjects, DetectionRules
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
VIT = VitSize(image_size=16, patch_size=4, width=16, layers=2, num_heads=2, mlp_width=16, embed_dim=8)
NAMES = Vocabulary(('background', 'cat', 'dog'), background='background', negatives=('toy', 'statue'))
ASKED = Vocabulary(('background', 'cat', 'dog', 'toy', 'statue'), background='background')


@pytest.fixture
def clip():
    return build_clip(ClipSize(VIT, TEXT))


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 26, 3), dtype=np.uint8))


@pytest.fixture
def segmenter(clip):
    return clipdense.Segmenter.from_pretrained(clip, cache=False, device='cpu')


def test_pixels_of_negatives_become_background(segmenter, image):
    plain = segmenter(image, ASKED, keep_probabilities=True)
    found = segmenter(image, NAMES, keep_probabilities=True)
    assert (plain.mask > 2).any()
    np.testing.assert_array_equal(found.mask, np.where(plain.mask > 2, 0, plain.mask))
    np.testing.assert_array_equal(found.scores, plain.scores)
    np.testing.assert_array_equal(found.probabilities, plain.probabilities[:3])
    assert found.vocabulary == NAMES


def test_pixels_below_their_threshold_become_background(segmenter, image):
    plain = segmenter(image, Vocabulary(NAMES.class_names, background='background'))
    least = float(np.median(plain.scores[plain.mask == 1]))
    asked = Vocabulary(NAMES.class_names, background='background', thresholds={'cat': least})
    found = segmenter(image, asked)
    np.testing.assert_array_equal(
        found.mask, np.where((plain.mask == 1) & (plain.scores < np.float64(least)), 0, plain.mask)
    )
    assert (found.mask != plain.mask).any()


@pytest.mark.parametrize('field', [{'negatives': ['toy']}, {'thresholds': {'cat': 0.5}}], ids=str)
def test_masks_need_a_background_for_them(segmenter, image, field):
    with pytest.raises(InputError, match='need a background class in segmentation'):
        segmenter(image, Vocabulary(('cat', 'dog'), **field))


def test_images(clip, image):
    classifier = clipdense.Classifier.from_pretrained(clip, cache=False, device='cpu')
    plain = classifier(image, ASKED).probabilities
    found = classifier(image, NAMES)
    np.testing.assert_array_equal(found.probabilities, plain[:3])
    best, value = found.top(1)[0]
    higher = Vocabulary(NAMES.class_names, negatives=NAMES.negatives, thresholds={best: value + 0.01})
    left = [name for name, _ in classifier(image, higher).top()]
    assert sorted([best, *left]) == sorted(NAMES.class_names)


def test_templates(segmenter, clip, image):
    asked = Vocabulary(('cat', 'dog'), templates=('art of the {}.',))
    other = clipdense.Segmenter(segmenter.model, PromptEnsemble(clip, ['art of the {}.'], cache=None))
    np.testing.assert_array_equal(segmenter(image, asked).scores, other(image, ['cat', 'dog']).scores)
    assert not np.array_equal(segmenter(image, ['cat', 'dog']).scores, other(image, ['cat', 'dog']).scores)

    class Names:
        def embed(self, vocabulary):
            return ClassEmbeddings(
                torch.eye(len(vocabulary), 8), torch.arange(len(vocabulary)), len(vocabulary)
            )

    stored = clipdense.Segmenter(segmenter.model, Names())
    with pytest.raises(InputError, match='templates of the vocabulary have no effect on a Names'):
        stored(image, asked)


class Boxes(torch.nn.Module):
    """A detector that always gives the same boxes: a cat, a toy on it, another toy, a dog."""

    rules, vocabulary, clip, templates = DetectionRules(), None, None, 'name'
    found = (
        ([0, 0, 10, 10], 0.8, 'cat'),
        ([0, 0, 10, 9], 0.9, 'toy'),
        ([40, 0, 50, 10], 0.3, 'toy'),
        ([40, 0, 50, 9], 0.5, 'dog'),
    )

    def set_vocabulary(self, vocabulary, embeddings):
        self.vocabulary = vocabulary

    def predict(self, images, rules):
        least = rules.thresholds(self.vocabulary)
        rows = [
            (box, score, self.vocabulary.index(name))
            for box, score, name in sorted(self.found, key=lambda row: -row[1])
            if name in self.vocabulary
        ]
        rows = [row for row in rows if row[1] > (least if isinstance(least, float) else float(least[row[2]]))]
        rows = rows[: rules.max_detections]
        boxes = torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4)
        scores, classes = torch.tensor([row[1] for row in rows]), torch.tensor([row[2] for row in rows])
        return [DetectedObjects(boxes, scores, classes.long()) for _ in images]


class Ones:
    """An embedder."""

    def embed(self, vocabulary):
        return ClassEmbeddings(
            torch.ones(len(vocabulary.queries), 2),
            torch.tensor([i for _, i in vocabulary.queries]),
            len(vocabulary),
        )


@pytest.mark.parametrize(
    ('vocabulary', 'options', 'names'),
    [
        (Vocabulary(('cat', 'dog')), {}, ['cat', 'dog']),
        (Vocabulary(('cat', 'dog'), negatives=['toy']), {'score_threshold': 0.2}, ['dog']),
        (
            Vocabulary(('dog', 'cat'), negatives=['toy']),
            {'score_threshold': 0.2, 'max_detections': 1},
            ['dog'],
        ),
        (Vocabulary(('cat', 'dog'), thresholds={'cat': 0.85}), {}, ['dog']),
        (
            Vocabulary(('cat', 'dog'), thresholds={'cat': 0.85}),
            {'class_thresholds': {'cat': 0.1}},
            ['cat', 'dog'],
        ),
        (Vocabulary(('cat', 'dog'), thresholds={'cat': 0.85}), {'class_thresholds': {1: 0.6}}, []),
    ],
    ids=['plain', 'negatives', 'few', 'thresholds', 'rules win', 'both'],
)
def test_boxes(image, vocabulary, options, names):
    result = clipdense.Detector(Boxes(), Ones())(image, vocabulary, **options)
    assert result.class_names == names
    assert result.vocabulary == vocabulary
