"""Vocabulary files in YAML and JSON; negatives, thresholds and templates."""

from __future__ import annotations

import json

import pytest
import yaml

from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

STREET = """
classes:
  - car
  - name: traffic light
    synonyms: [stop light]
    threshold: 0.4
  - [no, 1.0]
background: {name: rest, synonyms: [sky, wall]}
negatives: [billboard]
templates: ['a photo of a {}.', '{}']
novel: [car]
"""
EXPECTED = Vocabulary(
    ('rest', 'car', 'traffic light', 'no'),
    {'traffic light': ('stop light',), 'no': ('1.0',), 'rest': ('sky', 'wall')},
    'rest',
    frozenset({'car'}),
    ('billboard',),
    {'traffic light': 0.4},
    ('a photo of a {}.', '{}'),
)


@pytest.fixture
def street(tmp_path):
    (tmp_path / 'street.yaml').write_text(STREET)
    return tmp_path / 'street.yaml'


def test_the_layout_of_a_file(street, tmp_path):
    assert Vocabulary.from_file(street) == EXPECTED
    (tmp_path / 'street.json').write_text(json.dumps(yaml.load(STREET, yaml.BaseLoader)))
    assert Vocabulary.from_file(tmp_path / 'street.json') == EXPECTED


@pytest.mark.parametrize('name', ['a.yaml', 'a.YML', 'a.json'])
@pytest.mark.parametrize(
    'vocabulary',
    [EXPECTED, Vocabulary(('cat',)), Vocabulary(('猫', 'yes', '- x', 'a: b', '#', '1e3')).with_background()],
    ids=['all', 'plain', 'odd names'],
)
def test_saved_and_read_again(tmp_path, name, vocabulary):
    vocabulary.save(tmp_path / name)
    assert Vocabulary.from_file(tmp_path / name) == vocabulary


@pytest.mark.parametrize(
    ('text', 'background', 'queries'),
    [
        ('background: sky', 'sky', ['sky']),
        ('background: [sky, wall]', 'background', ['sky', 'wall']),
        ('background: cat', 'cat', ['cat']),
        ('background:', None, []),
        ('background: {synonyms: [sky]}', 'background', ['sky']),
    ],
)
def test_backgrounds(tmp_path, text, background, queries):
    (tmp_path / 'a.yaml').write_text(f'classes: [cat, dog]\n{text}\n')
    found = Vocabulary.from_file(tmp_path / 'a.yaml')
    assert found.background == background
    place = None if background is None else found.index(background)
    assert [word for word, index in found.queries if index == place] == queries


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('classes: [a, {nam: b}]', 'class 2 must be a name, a list of names, or have a "name"'),
        ('classes: [{name: a, synonym: b}]', "unknown key 'synonym' in class 1.*mean 'synonyms'"),
        ('classes: [{name: a, synonyms: b}]', "synonyms of class 1 must be a list of texts, got 'b'"),
        ('classes: [[a, [b]]]', r"must be a string, got list \['b'\]"),
        ('classes: [a]\nnegatives: b', 'negatives must be a list'),
        ('classes: [a]\nnegatives: [a]', "negative 'a' is a name of class 'a'"),
        ('classes: [a]\nnegatives: [b, B]', "negative 'B' is listed twice"),
        ('classes: [a]\ntemplates: [a photo]', 'template'),
        ('classes: [a]\nnovel: [b]', "novel class 'b' is not in"),
        ('classes: [a]\nbackground: {nam: b}', "unknown key 'nam' in background"),
        ('classes: [{name: a, threshold: nan}]', 'must be a number from 0 to 1'),
        ('class_names: [a]\nthresholds: [0.5]', 'thresholds must be a dict'),
        ('class_names: [a]\nthresholds: {b: 0.5}', "class with a threshold 'b' is not in the vocabulary"),
        ('? [a]\n: b', 'a key is no text'),
        ('a: !!python/object:os.system x', "unknown key 'a'"),
    ],
)
def test_refused(tmp_path, text, message):
    (tmp_path / 'a.yaml').write_text(text)
    with pytest.raises(InputError, match=message):
        Vocabulary.from_file(tmp_path / 'a.yaml')


@pytest.mark.parametrize('text', ['[' * 100_000, '{a: ' * 100_000, '- ' * 100_000, 'a' * 5_000_000])
def test_hostile_yaml(tmp_path, text):
    (tmp_path / 'a.yaml').write_text(text)
    with pytest.raises(InputError, match=r'a\.yaml'):
        Vocabulary.from_file(tmp_path / 'a.yaml')


def test_what_a_model_is_asked():
    asked = EXPECTED.with_negatives
    assert asked.class_names == (*EXPECTED.class_names, 'billboard')
    assert asked.queries[-1] == ('billboard', 4)
    assert asked.negatives == ()
    assert Vocabulary(('cat',)).with_negatives == Vocabulary(('cat',))


def test_derived_vocabularies_keep_what_they_have():
    part = EXPECTED.subset(['rest', 'traffic light'])
    assert (part.negatives, part.thresholds) == (('billboard',), {'traffic light': 0.4})
    framed = Vocabulary(('cat',), negatives=['toy'], thresholds={'cat': 0.5}).with_background()
    assert (framed.negatives, framed.thresholds) == (('toy',), {'cat': 0.5})
    assert EXPECTED.subset(['car', 'rest']).thresholds == {}


def test_digests_without_the_new_fields_stay():
    plain = Vocabulary(('car', 'tree'))
    assert plain.digest.startswith('2d6bfeff4d40')
    for change in ({'negatives': ['x']}, {'thresholds': {'car': 0.5}}, {'templates': 'simple'}):
        assert Vocabulary(('car', 'tree'), **change).digest != plain.digest
