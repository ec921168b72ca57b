"""Sentences with the phrases that are detected in images."""

from __future__ import annotations

import pytest

from clipdense.utils.errors import InputError
from clipdense.vocab.noun_phrases import NounExtractor
from clipdense.vocab.sentences import Sentence
from clipdense.vocab.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ('text', 'phrases'),
    [
        ('there are some holes on the road', ['some holes', 'the road']),
        ('The Striped Star left of a blue square and a dog', ['The Striped Star', 'a blue square', 'a dog']),
        ('Two men  in a\nboat near the boat (wooden).', ['Two men', 'a\nboat', 'the boat']),
        ('a photo of a city view', ['a city']),
        ('a couple of dogs next to a left front wheel', ['dogs', 'a left front wheel']),
        ('İstanbul has a big dog', ['a big dog']),  # in lower case it is longer
        ('a photo', []),
        ('', []),
    ],
)
def test_noun_phrases_stand_where_their_spans_say(text, phrases):
    assert [text[start:end] for start, end in NounExtractor().spans(text)] == phrases


def test_noun_phrases_are_the_class_names():
    found = Sentence.of('there are some holes on the road')
    assert found.class_names == ('some holes', 'the road')
    assert found.spans == (((10, 20),), ((24, 32),))
    assert isinstance(found, Vocabulary)


@pytest.mark.parametrize(
    ('text', 'phrases', 'names', 'spans'),
    [
        ('a dog on the road', ['THE ROAD', 'dog'], ('the road', 'dog'), (((9, 17),), ((2, 5),))),
        ('a dog, a dog', ['a dog', 'a dog'], ('a dog', 'a dog (2)'), (((0, 5),), ((7, 12),))),
        ('a dog and a cat', [[[0, 5], [10, 15]], [[2, 5]]], ('a dog a cat', 'dog'), None),
        ('the scar of a car', [' CAR '], ('car',), (((14, 17),),)),  # a whole word first
        ('a [b+] (c.*) d', ['[b+]', '(c.*)'], ('[b+]', '(c.*)'), (((2, 6),), ((7, 12),))),
    ],
)
def test_phrases_are_words_or_spans(text, phrases, names, spans):
    found = Sentence.of(text, phrases)
    assert found.class_names == names
    assert spans is None or found.spans == spans


def test_the_sentence_is_part_of_the_digest():
    one, other = (Sentence.of(text, ['dog']) for text in ('a dog', 'the dog'))
    assert len({one.digest, other.digest, Vocabulary(('dog',)).digest}) == 3
    assert one == Sentence.of('a dog', ['dog'])


@pytest.mark.parametrize(
    ('text', 'phrases', 'message'),
    [
        ('', None, 'the sentence is empty'),
        (None, None, 'the sentence is empty'),
        (' \n', ['a'], 'the sentence is empty'),
        ('to run', None, "no noun phrase was found in the sentence 'to run'"),
        ('a dog', [], 'has no phrases'),
        ('a dog', 'a dog', 'phrases must be a list'),
        ('a dog', 3, 'phrases must be a list'),
        ('a dog', ['cat'], "'cat' is not in the sentence"),
        ('a dog', ['dog', 'dog'], "'dog' is not again in"),
        ('a dog', ['.*'], 'is not in the sentence'),
        ('a dog', [[0, 2]], 'is a single span: put it in a list'),
        ('a dog', [[[[0, 2]]]], r'must be a list of \[start, end\]'),
        ('a dog', [[[0, 9]]], 'not inside of the text of 5 characters'),
        ('a dog', [[[1, 2]]], 'blank'),
    ],
)
def test_wrong_ones_are_refused(text, phrases, message):
    with pytest.raises(InputError, match=message):
        Sentence.of(text, phrases)
