"""Classes of a vocabulary that are given by example images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clipdense.utils.errors import InputError
from clipdense.vocab.examples import Example
from clipdense.vocab.vocabulary import Vocabulary

LOGO = (Example('a.png'), Example('b.png', 'b_mask.png'))
MIXED = Vocabulary(('car', 'sky'), examples={'logo': ['a.png', ('b.png', 'b_mask.png')]})


def test_examples_follow_the_names():
    assert MIXED.class_names == ('car', 'sky', 'logo')
    assert dict(MIXED.examples) == {'logo': LOGO}
    assert Vocabulary.from_images({'logo': ['a.png', ('b.png', 'b_mask.png')]}, ['car', 'sky']) == MIXED
    assert Vocabulary.from_images({'logo': ['a.png'], 'cat': ['b.png']}).class_names == ('logo', 'cat')


def test_examples_of_a_class_among_the_names_keep_its_place():
    found = Vocabulary(('sky', 'Logo', 'car'), examples={'logo': ['a.png']}, background='sky')
    assert found.class_names == ('sky', 'Logo', 'car')
    assert [*found.examples] == ['Logo']


def test_methods_keep_examples():
    assert MIXED.with_background().class_names == ('background', 'car', 'sky', 'logo')
    assert MIXED.with_background().examples == MIXED.examples
    assert MIXED.subset(['logo', 'car']).examples == MIXED.examples
    assert MIXED.subset(['car']) == Vocabulary(('car',))
    asked = Vocabulary(('car',), examples=MIXED.examples, negatives=('toy',)).with_negatives
    assert asked.class_names == ('car', 'logo', 'toy')
    assert [*asked.examples] == ['logo']
    assert MIXED.names_only == Vocabulary(('car', 'sky', 'logo'))
    assert MIXED.digest != MIXED.names_only.digest


def test_text_is_not_embedded_instead_of_examples():
    with pytest.raises(InputError, match="class 'logo' is given by example images"):
        _ = MIXED.queries


@pytest.mark.parametrize('name', ['v.yaml', 'v.json'])
def test_files_have_relative_paths(tmp_path, name):
    inside = str(tmp_path / 'images' / 'a.png')
    saved = Vocabulary(('car',), examples={'logo': [inside, ('/other/b.png', '/other/m.png')]})
    saved.save(tmp_path / name)
    assert 'images/a.png' in (tmp_path / name).read_text()
    assert inside not in (tmp_path / name).read_text()
    assert Vocabulary.from_file(tmp_path / name) == saved


def test_the_layout_of_a_file(tmp_path):
    images = ['a.png', {'image': 'b.png', 'mask': 'b_mask.png'}, ['c.png', 'c_mask.png']]
    entries = {'classes': ['car', {'name': 'logo', 'threshold': 0.5, 'examples': images}]}
    (tmp_path / 'v.json').write_text(json.dumps(entries))
    found = Vocabulary.from_file(tmp_path / 'v.json')
    own = [str(tmp_path / one) for one in ('a.png', 'b.png', 'b_mask.png', 'c.png', 'c_mask.png')]
    assert found.examples['logo'] == (Example(own[0]), Example(*own[1:3]), Example(*own[3:]))
    assert found.thresholds == {'logo': 0.5}


def test_the_background_of_a_file_may_be_given_by_examples(tmp_path):
    (tmp_path / 'v.json').write_text('{"classes": [{"name": "sky", "examples": ["a.png"]}, "car"]}')
    found = Vocabulary.from_file(tmp_path / 'v.json', background='rest')
    assert found.class_names == ('rest', 'car')
    assert found.background == 'rest'
    assert [*found.examples] == ['rest']
    assert not found.synonyms


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'examples': ['a.png']}, 'examples must be a dict of class name -> list of images, got list'),
        ({'examples': {'logo': 'a.png'}}, "the examples of class 'logo' must be a list of images"),
        ({'examples': {'logo': []}}, "class 'logo' has no examples"),
        ({'examples': {'logo': ['a.png', 'a.png']}}, "example 2 of class 'logo' is listed twice"),
        ({'examples': {'logo': [('a.png', 'b.png', 'c.png')]}}, r'must be the path .* or a pair'),
        ({'examples': {'logo': [np.zeros((4, 4, 3))]}}, 'must be the path .* got ndarray'),
        ({'examples': {'logo': [(np.zeros((4, 4, 3)), 'm.png')]}}, 'must be given by paths, got ndarray'),
        ({'examples': {'logo': [' ']}}, 'has an empty path'),
        ({'examples': {'logo': [{'file': 'a.png'}]}}, 'must have "image", and may have "mask"'),
        ({'examples': {3: ['a.png']}}, 'a class with examples must be a string'),
        ({'examples': {'Logo': ['a.png'], 'logo': ['b.png']}}, "class 'logo' is listed twice"),
        (
            {'examples': {'car': ['a.png']}, 'synonyms': {'car': ['auto']}},
            "class 'car' is given by examples and has synonyms",
        ),
        ({'examples': {'logo': ['a.png']}, 'negatives': ['logo']}, "'logo' is a name of class 'logo'"),
    ],
)
def test_wrong_examples_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Vocabulary(('car', 'sky'), **fields)


def test_a_class_both_named_and_shown_is_refused():
    with pytest.raises(InputError, match="class 'Logo' is given by its name and by examples"):
        Vocabulary.from_images({'logo': ['a.png']}, ['car', 'Logo'])


def test_files_name_themselves(tmp_path):
    (tmp_path / 'v.yaml').write_text('classes:\n- {name: logo, examples: a.png}\n- car\n')
    with pytest.raises(InputError, match=r"v.yaml: the examples of class 'logo' must be a list"):
        Vocabulary.from_file(tmp_path / 'v.yaml')


def test_files_of_examples():
    assert MIXED.example_files == ('a.png', 'b.png', 'b_mask.png')
