"""The split: what is never trained on is made of what is."""

from __future__ import annotations

import itertools

import pytest

from clipdense.data.scenes import DIFFICULTIES, SPLITS
from clipdense.data.scenes.combinations import split_classes


def pairs(name):
    return set(itertools.combinations(name.split(' '), 2))


@pytest.mark.parametrize('difficulty', DIFFICULTIES)
def test_every_combination_is_in_one_split(difficulty):
    table = DIFFICULTIES[difficulty]
    splits = split_classes(table)
    names = [name for split in SPLITS for name in splits[split]]
    factors = itertools.product(table.colors, table.textures, table.shapes)
    assert sorted(names) == sorted(' '.join(words) for words in factors)
    assert all(splits[split] for split in SPLITS)
    assert len(names) < 255  # masks are 8 bits, 0 is background and 255 unlabeled


@pytest.mark.parametrize('difficulty', DIFFICULTIES)
def test_training_shows_every_word_and_every_pair_of_an_unseen_class(difficulty):
    splits = split_classes(DIFFICULTIES[difficulty])
    trained = [*splits['base'], *splits['novel']]
    words = {word for name in trained for word in name.split(' ')}
    seen = set().union(*map(pairs, trained))
    for name in splits['unseen']:
        assert set(name.split(' ')) <= words
        assert pairs(name) <= seen


def test_standard_is_the_one_that_numbers_are_reported_on():
    splits = split_classes(DIFFICULTIES['standard'])
    assert {split: len(names) for split, names in splits.items()} == {'base': 32, 'novel': 16, 'unseen': 16}
    in_base = set().union(*map(pairs, splits['base']))
    assert all(pairs(name) <= in_base for name in splits['unseen'])


def test_two_words_never_give_an_unseen_class_away():
    unseen = split_classes(DIFFICULTIES['standard'])['unseen']
    for name in unseen:
        for pair in pairs(name):
            assert sum(pair in pairs(other) for other in unseen) > 1
