"""Nouns and phrases of captions."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from clipdense.data.scenes import Scenes
from clipdense.utils.errors import InputError
from clipdense.vocab.noun_phrases import NounExtractor


@pytest.mark.parametrize(
    ('caption', 'phrases', 'words'),
    [
        ('Two dogs running on the beach', ['dogs', 'beach'], ['dogs', 'running', 'beach']),
        (
            'A man holding a red umbrella in the street',
            ['man', 'red umbrella', 'street'],
            ['man', 'holding', 'umbrella', 'street'],
        ),
        ('the dog chases the ball', ['dog', 'ball'], ['dog', 'chases', 'ball']),
        ('a woman is riding a brown horse', ['woman', 'brown horse'], ['woman', 'riding', 'horse']),
        ('street lights in the city', ['street lights', 'city'], ['street', 'lights', 'city']),
        ('a ring to the left of a yellow star', ['ring', 'yellow star'], ['ring', 'star']),
        ('a photo of a sunset', ['sunset'], ['sunset']),
        ('person wants to eat an apple', ['person', 'apple'], ['person', 'wants', 'eat', 'apple']),
        ('a dog and a dog', ['dog', 'dog'], ['dog', 'dog']),
        ('a frobnicator', ['frobnicator'], ['frobnicator']),  # in no dictionary
        ('a café in München', ['café', 'münchen'], ['café', 'münchen']),
        ('quickly and quietly', [], []),
        ('3 + 4 = 7 !?', [], []),
        ('', [], []),
    ],
)
def test_captions(caption, phrases, words):
    assert NounExtractor('phrase')(caption) == phrases
    assert NounExtractor('word')(caption) == words
    assert set(NounExtractor('noun')(caption)) <= set(words)


def test_every_class_of_scene_captions_is_found():
    scenes, extract = Scenes(), NounExtractor('phrase')
    for index in range(100):
        caption = scenes.draw(index).caption
        named = {name for name in scenes.class_names if name in caption}
        assert named <= set(extract(caption)), caption


def test_ignored_words_take_their_phrase_along():
    assert NounExtractor('phrase', ignore=['Wall'])('a cat on a white wall') == ['cat']
    assert NounExtractor('noun', ignore=['wall'])('a cat on a white wall') == ['cat']


def test_other_taggers(monkeypatch):
    """A stand-in, for none of them is a requirement."""
    tags = {'A': 'DT', 'big': 'JJ', 'dog': 'NN', 'barks': 'VBZ', '.': '.'}
    nltk = SimpleNamespace(
        word_tokenize=lambda text: text.replace('.', ' .').split(),
        pos_tag=lambda words: [(word, tags.get(word, 'NN')) for word in words],
    )
    monkeypatch.setitem(sys.modules, 'nltk', nltk)
    assert NounExtractor('word', 'nltk')('A big dog barks.') == ['dog', 'barks']
    assert NounExtractor('phrase', 'nltk')('A big dog barks.') == ['big dog']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'kind': 'verb'}, 'unknown kind'),
        ({'tagger': 'lemminflct'}, "Did you mean 'lemminflect'"),
        ({'tagger': 'nltk'}, 'needs the package nltk'),
    ],
)
def test_refusals(options, message, monkeypatch):
    monkeypatch.setitem(sys.modules, 'nltk', None)
    with pytest.raises(InputError, match=message):
        NounExtractor(**options)
