"""Files with the words around class names."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from clipdense.utils.errors import InputError
from clipdense.vocab.sentences import Sentence
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.vocab.wording import with_wording

CLASSES = Vocabulary(('fish', 'Puffin', 'ray'), synonyms={'ray': ('stingray',)}, novel=frozenset({'ray'}))
PUFFIN = {'prefix': 'a ', 'name': 'puffin', 'suffix': ' with orange beaks'}
CONFIG = """
DATASETS:
  CAPTION_PROMPT: '[{"prefix": " ", "name": "fish", "suffix": ""}, {"prefix": "", "name":
    "puffin", "suffix": " with orange beaks"}, {"prefix": "", "name": "stingray", "suffix": ""}, ]'
  OVERRIDE_CATEGORY: '[{"id": 1, "name": "a fish", "supercategory": "x"}]'
"""
NAMES = CONFIG.replace('CAPTION_PROMPT', 'UNUSED')


def read(tmp_path, content, name='prompts.json'):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text)
    return with_wording(CLASSES, tmp_path / name)


@pytest.mark.parametrize(
    ('content', 'name', 'asked', 'wording'),
    [
        ([{}, PUFFIN, {'name': 'flat ray'}], 'a.json', ('fish', 'puffin', 'flat ray'), ('', '', 'flat ray')),
        ({'puffin': PUFFIN}, 'a.json', ('fish', 'puffin', 'ray'), None),
        ({'ray': 'sting ray'}, 'a.json', ('fish', 'Puffin', 'sting ray'), ('', 'sting ray', '')),
        (CONFIG, 'a.yaml', ('fish', 'puffin', 'stingray'), None),
    ],
)
def test_words_of_names(tmp_path, content, name, asked, wording):
    found = read(tmp_path, content, name)
    assert found.class_names == CLASSES.class_names
    assert (found.novel, found.synonyms) == (CLASSES.novel, CLASSES.synonyms)
    assert tuple(word for word, _ in found.queries[:2]) == asked[:2]
    assert dict(found.queries[2:]) == {asked[2]: 2, 'stingray': 2}
    assert found.spelled == CLASSES.queries
    assert found.digest != CLASSES.digest
    assert found.subset(['ray', 'fish']).queries[0] == (asked[2], 0)


def test_a_sentence(tmp_path):
    phrases = {'ray': 'a ray', 'fish': 'some fish', 'puffin': 'puffins'}
    found = read(tmp_path, {'sentence': 'some fish, a ray and puffins', 'phrases': phrases})
    assert isinstance(found, Sentence)
    assert found.class_names == ('some fish', 'puffins', 'a ray')
    assert found.spans == (((0, 9),), ((21, 28),), ((11, 16),))
    assert found.novel == {'a ray'}
    listed = read(tmp_path, {'sentence': found.text, 'phrases': ['some fish', 'puffins', 'a ray']})
    assert listed == found == replace(found)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([PUFFIN], r'has 1 prompts, and there are 3 classes \(fish, Puffin, ray\): it belongs to another'),
        ({'cat': 'a cat'}, "'cat' is none of the classes"),
        ({'Fish': 'a', 'fish ': 'b'}, 'names a class twice'),
        ({'fish': 7}, "the prompt of 'fish' must be words"),
        ({'fish': {'nmae': 'x'}}, "unknown key 'nmae'.*name"),
        ({'fish': {'suffix': 7}}, 'suffix must be a text, got 7'),
        ({'fish': 'a\tb'}, 'prompt'),
        ('7', 'must be a list of'),
        ('', 'is empty: JSON expected'),
        ({'sentence': 'a fish'}, '"sentence" needs "phrases"'),
        ({'sentence': 'a fish', 'phrases': ['a fish']}, 'has 1 phrases, and there are 3 classes'),
        ({'sentence': 'a fish', 'phrases': {'fish': 'a fish'}}, "has none for the class 'Puffin'"),
        ({'sentence': 'a', 'phrases': ['a', 'b', 'c']}, "the phrase 'b' is not in the sentence 'a'"),
        ({'sentence': 'a', 'phrases': ['a', 7, 'c']}, "the phrase of 'Puffin' must be words"),
        ({'sentence': ' ', 'phrases': ['a', 'b', 'c']}, 'the sentence is empty'),
        ({'sentence': 'a', 'phrases': [], 'words': 1}, "unknown key 'words'"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, content)
    assert 'prompts.json' in str(caught.value)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (NAMES, 'has 1 prompts, and there are 3 classes'),
        ('a: b', 'has no DATASETS'),
        ('DATASETS: {}', 'has neither CAPTION_PROMPT nor OVERRIDE_CATEGORY'),
        ("DATASETS: {CAPTION_PROMPT: 'open(1)'}", 'CAPTION_PROMPT cannot be read'),
        ("DATASETS: {CAPTION_PROMPT: '[1]'}", 'CAPTION_PROMPT must be a list of objects'),
    ],
)
def test_other_configs_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, content, 'a.yaml')
    assert 'a.yaml' in str(caught.value)
