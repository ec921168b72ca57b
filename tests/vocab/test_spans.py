"""Spans of phrases in a text."""

from __future__ import annotations

import pytest

from clipdense.utils.errors import InputError
from clipdense.vocab.spans import check_spans, mirrored, occurrence, words_of

TEXT = 'a red star to the left of a cup (blue)'


@pytest.mark.parametrize(
    ('text', 'phrase', 'expected'),
    [
        (TEXT, 'red star', 'a red star to the right of a cup (blue)'),
        (TEXT, 'a cup', 'a red star to the right of a cup (blue)'),
        (TEXT, 'the left of a cup', 'a red star to the right of a cup (blue)'),
        ('Left one, RIGHT one, leftover', 'leftover', 'Right one, LEFT one, leftover'),
        ('Left one, RIGHT one, leftover', 'Left one', 'Right one, LEFT one, leftover'),
        ('no side', 'side', 'no side'),
    ],
)
def test_mirrored_texts_keep_their_phrases(text, phrase, expected):
    start = text.index(phrase)
    found, spans = mirrored(text, [((start, start + len(phrase)),)])
    assert found == expected
    again, back = mirrored(found, spans)
    assert (again, words_of(back[0], again)) == (text, phrase)
    swapped = phrase.translate({}) if 'eft' not in phrase or phrase == 'leftover' else None
    assert swapped in (None, words_of(spans[0], found))


def test_a_phrase_with_brackets_is_found():
    assert occurrence(TEXT, '(blue)', set()) == (32, 38)


@pytest.mark.parametrize(
    ('spans', 'message'),
    [
        ([0, 5], 'is a single span: put it in a list'),
        ([[[0, 5]]], 'got'),
        ([[[0, 5], [6, 9]]], 'nested one level too deep'),
        ([], 'must be a list'),
        (None, 'must be a list'),
        ('0-5', 'must be a list'),
        ([[0, 99]], 'not inside of the text'),
        ([[5, 5]], 'not inside of the text'),
        ([[-1, 5]], 'not inside of the text'),
        ([[0.5, 5]], 'nested'),
        ([[True, 2]], 'nested'),
    ],
)
def test_wrong_spans_are_refused(spans, message):
    with pytest.raises(InputError, match=message):
        check_spans(spans, TEXT)
