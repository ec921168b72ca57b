"""The normal form of class names, and every table that is looked up with it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdense.utils.errors import InputError
from clipdense.vocab.names import check_name, doubts, first_repeated, is_background, normalize, places

SAME = [
    ('caf\u00e9', 'cafe\u0301'),
    ('traffic light', 'Traffic_Light'),
    ('traffic light', ' traffic  light '),
    ('traffic light', 'traffic\u00a0light'),
    ('traffic light', 'traffic\u3000light'),
    ('cat', 'c\u200bat'),
    ('cat', '\ufeffcat'),
    ('cat', 'ca\u00adt'),
    ('cat', '\uff23\uff21\uff34'),
    ('cat', 'cat.'),
    ('fish', '\ufb01sh'),
    ('strasse', 'Stra\u00dfe'),
    ('\u2764', '\u2764\ufe0f'),
    ('\u0645\u06cc\u0631\u0648\u0645', '\u0645\u06cc\u200c\u0631\u0648\u0645'),
    ('o.k', 'O.K.'),
]
DIFFERENT = [
    ('i', '\u0131'),  # a letter of its own in Turkish
    ('istanbul', '\u0130stanbul'),
    ('cat', 'cats'),
    ('t-shirt', 't shirt'),
    ('cafe', 'caf\u00e9'),
    ('st. bernard', 'st bernard'),
    ('\U0001f3f4\U000e0067\U000e0062', '\U0001f3f4\U000e0065\U000e006e'),  # flags end in tag characters
]


@pytest.mark.parametrize(('one', 'other'), SAME, ids=ascii)
def test_one_name(one, other):
    assert normalize(one) == normalize(other)


@pytest.mark.parametrize(('one', 'other'), DIFFERENT, ids=ascii)
def test_two_names(one, other):
    assert normalize(one) != normalize(other)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=20))
def test_the_normal_form_is_stable(text):
    key = normalize(text)
    assert normalize(key) == key
    assert normalize(unicodedata.normalize('NFD', text)) == key
    assert key or all(unicodedata.category(sign) in ('Cc', 'Cf', 'Mn', 'Zl', 'Zp', 'Zs') for sign in text)


@pytest.mark.parametrize(
    ('given_name', 'shown'),
    [
        ('Traffic_Light', 'Traffic_Light'),
        ('\ufeffcat\u200b ', 'cat'),
        ('\uff23\uff21\uff34', '\uff23\uff21\uff34'),
        ('\U0001f469\u200d\U0001f680', '\U0001f469\u200d\U0001f680'),
        ('cafe\u0301', 'cafe\u0301'),
    ],
    ids=ascii,
)
def test_the_spelling_is_kept(given_name, shown):
    assert check_name(given_name, 'class name') == shown


@pytest.mark.parametrize(
    'name', ['', ' ', '\u200b', '\ufeff', '\u00a0', 'a\tb', 'a\x00', '\ud800', 3, None, b'cat']
)
def test_refused(name):
    with pytest.raises(InputError, match='a class name'):
        check_name(name, 'class name')


def test_places_and_repeated_names():
    names = ['cat', 'Traffic_Light', 'CAT', 'traffic light']
    assert places(names) == {'cat': 0, 'traffic light': 1}
    assert first_repeated(names) == ('CAT', 'cat')
    assert first_repeated(names[:2]) is None


@pytest.mark.parametrize(
    'name', ['Background', '_background_', '__background__', 'BG', ' back\u200bground', 'bg.']
)
def test_background(name):
    assert is_background(name)


@pytest.mark.parametrize('name', ['background wall', 'bgr', 'ground', '_'])
def test_no_background(name):
    assert not is_background(name)


@pytest.mark.parametrize(
    ('names', 'said'),
    [
        (['cat; dog'], 'separate names with commas'),
        (['cat|dog'], 'separate names with commas'),
        (['cat. dog.'], 'separate names with commas'),
        (['\u732b\uff1b\u72ac'], 'separate names with commas'),
        (['1. cat', '2. dog'], 'numbers are read as part'),
        (['0: cat', '1: dog', '2: cow'], 'numbers'),
        (['- cat', '- dog'], 'bullets'),
        (['"cat"', '"dog"'], 'quotes'),
        (["['cat'", "'dog']"], 'brackets'),
        (['n01440764 tench', 'n01443537 goldfish'], 'WordNet ids'),
        (['cat', '?!'], 'only punctuation'),
    ],
)
def test_doubts(names, said):
    assert [said in one for one in doubts(names)] == [True]


@pytest.mark.parametrize(
    'names',
    [
        ['St. Bernard'],
        ['U.S.A.'],
        ['7 up', 'cola'],
        ['bow (weapon)', 'bow (ribbon)'],
        ['\U0001f534', '\U0001f7e6'],
        ['$', '+'],
        ['(sun) hat'],
        ['0', '1', '2'],
        ['a/b'],
    ],
)
def test_no_doubts(names):
    assert not list(doubts(names))
