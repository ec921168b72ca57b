"""A cache by class name: other vocabularies, other counts, growth, and what it refuses."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.methods.adapters import affinity
from clipdense.methods.adapters.cache import KeyValueCache
from clipdense.methods.adapters.search import Grid, Validation, score_trained, search
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

LABELS = [0, 0, 1, 1, 2, 2]
NAMES = ('cat', 'dog', 'bird')
WORDS = Vocabulary(NAMES)


def cache(labels=LABELS, names=NAMES, **settings):
    return KeyValueCache(torch.randn(len(labels), 8), labels, names, **settings)


def unit(*shape):
    return normalize(torch.randn(*shape, 8), dim=-1)


def written_out(made, x, weights):
    """(n, C): equation 4 of the paper with a loop over keys."""
    out = torch.zeros(len(x), len(made.class_names))
    for key, label in zip(made.keys, made.labels.tolist(), strict=True):
        out[:, label] += weights[label] * made.alpha * torch.exp(-made.beta * (1 - x @ key))
    return out


class TestNames:
    def test_another_order_and_a_class_without_keys(self):
        made, x = cache(), unit(5)
        own = made.scores(x, WORDS)
        with pytest.warns(UserWarning, match='no keys of fish: zero-shot'):
            other = made.scores(x, Vocabulary(('bird', 'cat', 'fish')))
        assert_close(other, torch.stack([own[:, 2], own[:, 0], torch.zeros(5)], dim=1))
        with warnings.catch_warnings():  # said once
            warnings.simplefilter('error')
            made.scores(x, Vocabulary(('bird', 'cat', 'fish')))

    def test_spelling_and_synonyms(self):
        made, x = cache(names=('traffic light', 'automobile', 'bird')), unit(5)
        words = Vocabulary(('Traffic_Light', 'car', 'bird'), {'car': ('automobile',)})
        assert_close(made.scores(x, words), made.scores(x, Vocabulary(made.class_names)))

    def test_two_classes_of_the_cache_may_be_one_class(self):
        made, x = cache(), unit(5)
        own = made.scores(x, WORDS)
        merged = made.scores(x, Vocabulary(('pet', 'bird'), {'pet': ('cat', 'dog')}))
        assert_close(merged, torch.stack([own[:, 0] + own[:, 1], own[:, 2]], dim=1))

    def test_no_common_class(self):
        with pytest.raises(InputError, match=r'cat, dog, bird; the classes are sky, car: use class names of'):
            cache().scores(unit(5), Vocabulary(('sky', 'car')))

    def test_some_classes_only(self):
        made, x = cache(), unit(2, 3)
        classes = torch.tensor([2, 0, 2])
        assert_close(made.scores(x, WORDS, classes), made.scores(x, WORDS)[..., classes])


class TestCounts:
    def test_equal_counts_are_the_formula(self):
        made, x = cache(alpha=2.0, beta=3.0), unit(5)
        assert_close(made.scores(x, WORDS), written_out(made, x, [1, 1, 1]))

    def test_unequal_counts_are_balanced(self):
        made, x = cache([0, 0, 0, 0, 1, 2]), unit(5)
        assert_close(made.scores(x, WORDS), written_out(made, x, [0.5, 2, 2]))
        assert made.class_alpha() == {'cat': 0.5, 'dog': 2.0, 'bird': 2.0}

    def test_or_not(self):
        made, x = cache([0, 0, 0, 0, 1, 2], balance=False), unit(5)
        assert_close(made.scores(x, WORDS), written_out(made, x, [1, 1, 1]))

    def test_growing(self):
        made, more, x = cache(), torch.randn(2, 8), unit(5)
        made.add(more, ['Cat', 'fish'])
        assert made.class_names == ('cat', 'dog', 'bird', 'fish')
        assert made.counts.tolist() == [3, 2, 2, 1]
        words = Vocabulary(('fish', 'cat'))
        at_once = KeyValueCache(made.keys, [*LABELS, 0, 3], (*NAMES, 'fish'))
        assert_close(made.scores(x, words), at_once.scores(x, words))
        assert made.add(more, 'cow').counts.tolist() == [3, 2, 2, 1, 2]

    def test_chunks_give_the_same(self, monkeypatch):
        made, x = cache(), unit(40, 5)
        whole = made.scores(x, WORDS)
        monkeypatch.setattr(affinity, '_BYTES', 4 * 6 * 7)
        assert_close(made.scores(x, WORDS), whole)

    def test_only_the_keys_are_trained_and_their_gradient_is_that_of_the_formula(self):
        made, x = cache().trainable(), unit(5)
        made.scores(x, WORDS).pow(2).sum().backward()
        found, made.keys.grad = made.keys.grad, None
        written_out(made, x, [1, 1, 1]).pow(2).sum().backward()
        assert_close(found, made.keys.grad)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'alpha': -1}, 'alpha must be at least 0, got -1'),
        ({'alpha': float('nan')}, 'alpha must be a finite number, got nan'),
        ({'alpha': '1'}, "alpha must be a finite number, got '1'"),
        ({'beta': 0}, 'beta must be above 0, got 0'),
        ({'beta': float('inf')}, 'beta must be a finite number, got inf'),
        (
            {'labels': [0, 0, 1]},
            r'labels must be 6 integers, one for each key, got torch.int64 of shape \(3,\)',
        ),
        ({'labels': [0, 0, 1, 1, 2, 3]}, 'labels must be from 0 to 2 for 3 class names, got 0 to 3'),
        ({'names': ('cat', 'Cat', 'bird')}, "class 'Cat' is listed twice"),
        ({'keys': torch.full((6, 8), torch.nan)}, r'6 of 6 keys are NaN or infinite \(row 0\)'),
        ({'keys': torch.zeros(6, 8)}, r'6 of 6 keys are zero \(row 0\)'),
        ({'keys': torch.randn(8)}, r'must be floating-point embeddings \(N, D\) with at least one row'),
        ({'keys': torch.randn(0, 8)}, r'with at least one row, got torch.float32 of shape \(0, 8\)'),
    ],
)
def test_refused(settings, message):
    given = {'keys': torch.randn(6, 8), 'labels': LABELS, 'names': NAMES, **settings}
    keys, labels, names = (given.pop(name) for name in ('keys', 'labels', 'names'))
    with pytest.raises(InputError, match=message):
        KeyValueCache(keys, labels, names, **given)


@pytest.mark.parametrize(
    ('keys', 'names', 'message'),
    [
        (torch.randn(2, 9), 'cat', 'the keys have dimension 9, those of the cache 8'),
        (torch.randn(2, 8), ['cat'], 'got 1 class names for 2 keys'),
        (torch.full((2, 8), torch.inf), 'cat', '2 of 2 keys are NaN or infinite'),
        (torch.randn(2, 8), ['cat', ' '], 'class name'),
    ],
)
def test_refused_when_growing(keys, names, message):
    made = cache()
    with pytest.raises(InputError, match=message):
        made.add(keys, names)
    assert (len(made), made.class_names) == (6, NAMES)


class TestSearch:
    @pytest.fixture
    def separable(self):
        """Keys that tell the classes apart, where zero-shot logits do not."""
        labels = torch.arange(3).repeat(10)
        x = normalize(torch.eye(3, 8)[labels] + 0.1 * torch.randn(30, 8), dim=1)
        return KeyValueCache(torch.eye(3, 8), [0, 1, 2], NAMES), x, labels, 0.1 * torch.randn(30, 3)

    @pytest.mark.filterwarnings('ignore:the best')
    def test_the_result_says_everything(self, separable):
        made, x, labels, logits = separable
        found = search(made, Validation(x, labels, logits, WORDS), Grid(2, 3, 2, 5))
        assert found.betas == pytest.approx([0.1, 1.05])
        assert found.alphas == pytest.approx([0.1, 0.68, 1.26, 1.84, 2.42])
        assert found.best == max(map(max, found.values)) == 1.0
        assert found.zero_shot == (logits.argmax(1) == labels).double().mean()
        assert (found.count, found.metric) == (30, 'accuracy')
        assert found.to_dict()['alpha'] == made.alpha == found.alpha

    def test_what_trained_keys_reach(self, separable):
        made, x, labels, logits = separable
        validation = Validation(x, labels, logits, WORDS)
        before = search(made, validation)
        made.keys.data = made.keys.data.roll(1, 0)
        found = score_trained(made, validation)
        assert (found.best, found.alpha, before.trained) == (1.0, before.alpha, None)
        assert made.search.trained == found.trained < 0.5
        assert f'accuracy {found.trained:.3f} of 30' in made.summary()

    def test_mean_iou(self, separable):
        made, x, labels, logits = separable
        assert search(made, Validation(x, labels, logits, WORDS, 'mean_iou')).best == 1.0

    def test_what_is_said(self, separable):
        made, x, labels, logits = separable
        with pytest.warns(UserWarning, match='1 of 3 classes are not in the validation set: bird'):
            search(made, Validation(*(one[labels < 2] for one in (x, labels, logits)), WORDS))
        with pytest.warns(UserWarning, match=r'the best alpha \(0.6\) is the largest of the grid'):
            search(made, Validation(x, labels, logits, WORDS), Grid(5, 1.1, 3, 2))
        perfect = 100 * torch.eye(3)[labels]
        with pytest.warns(
            UserWarning, match='does not improve the validation set: accuracy 1.000, zero-shot 1.0'
        ):
            search(made, Validation(x, labels, perfect, WORDS))

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            ({'embeddings': torch.zeros(0, 8)}, 'the validation set is empty'),
            ({'embeddings': torch.full((30, 8), torch.nan)}, 'NaN or infinite'),
            ({'labels': torch.full((30,), 3)}, 'validation labels must be from 0 to 2, got 3 to 3'),
            ({'labels': torch.zeros(29).long()}, r'embeddings \(n, D\) and labels \(n,\), got'),
            ({'embeddings': torch.zeros(30, 4)}, 'validation embeddings have dimension 4, the keys 8'),
            ({'logits': torch.zeros(30, 4)}, r'zero-shot logits must be \(30, 3\), got \(30, 4\)'),
            ({'metric': 'f1'}, "metric must be 'accuracy' or 'mean_iou', got 'f1'"),
        ],
    )
    def test_refused(self, separable, change, message):
        made, x, labels, logits = separable
        given = {'embeddings': x, 'labels': labels, 'logits': logits, 'vocabulary': WORDS, **change}
        with pytest.raises(InputError, match=message):
            search(made, Validation(**given))

    @pytest.mark.parametrize(
        ('grid', 'message'),
        [
            ({'alpha': 0.1}, 'the end of the grid of alpha must be a number above 0.1, got 0.1'),
            ({'beta': '7'}, "the end of the grid of beta must be a number above 0.1, got '7'"),
            ({'beta_steps': 0}, 'beta_steps must be a whole number of at least 1, got 0'),
        ],
    )
    def test_grid_refused(self, grid, message):
        with pytest.raises(InputError, match=message):
            Grid(**grid)
