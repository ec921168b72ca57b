"""Prompts, spans and positive maps to the letter of microsoft/GLIP (``glip_prompts.json``)."""

from __future__ import annotations

import json

import pytest
import torch

from clipdense.methods.glip.prompts import (
    PromptRules,
    check_found,
    chunks,
    class_prompt,
    clean_name,
    positive_map,
    tokens_of,
    warn_of_equal,
)
from clipdense.utils.errors import InputError
from clipdense.vocab.tokenizer import Tokenizer


@pytest.fixture(scope='module')
def official(golden_path):
    return json.loads(golden_path('glip_prompts.json').read_text('utf-8'))


def located(text):
    """Ids with the special ones, and the characters of each."""
    tokenizer = Tokenizer()
    ids, places = tokenizer.locate(text)
    return [*tokenizer.prefix, *ids, *tokenizer.suffix], [(0, 0), *places, (0, 0)]


def test_names_are_cleaned(official):
    assert {name: clean_name(name) for name in official['clean_name']} == official['clean_name']


@pytest.mark.parametrize('index', range(12))
def test_class_prompts(official, index):
    """Texts of both tokenizers; ids and tokens of OpenAI's."""
    case = official['cases'][index]
    names = [*case['names'], *(case['suppressed'] or ())]
    given = case['caption_prompt'] or []
    wording = {one['name']: (one['prefix'], one['name'], one['suffix']) for one in given}
    prompt = class_prompt(names, PromptRules(separator=case['separator'], wording=wording))
    assert prompt.text == case['query']
    if case['tokenizer'] == 'clip':
        ids, places = located(prompt.text)
        assert ids == case['input_ids']
        found = [tokens_of(spans, places) for spans in prompt.phrases[: len(case['names'])]]
        assert found == list(case['label_to_tokens'].values())


@pytest.mark.parametrize('index', range(8))
def test_positive_maps(official, index):
    case = official['positive_maps'][index]
    if case['tokenizer'] == 'clip':
        ids, places = located(case['caption'])
        assert ids == case['input_ids']
        assert places == [tuple(place) for place in case['offsets']]
    phrases = [tokens_of(spans, case['offsets']) for spans in case['spans']]
    found = positive_map(phrases, len(case['offsets']), normalized=True)
    for row, expected in zip(found, case['rows'], strict=True):
        assert [[int(t), round(float(row[t]), 6)] for t in row.nonzero()[:, 0]] == [
            [token, pytest.approx(value, abs=2e-6)] for token, value in expected
        ]
    whole = positive_map(phrases, len(case['offsets']))
    assert torch.equal(whole, (found > 0).float())


def test_training_captions(official):
    case = official['training_caption']
    prompt = class_prompt(list(case['classes'].values()), PromptRules(separator=case['separator']))
    assert prompt.text == case['caption']
    of_boxes = [list(map(list, prompt.phrases[label - 1])) for label in case['box_labels']]
    assert of_boxes == case['spans']


def test_chunks(official):
    """At most four names, as released; or as many as fit."""
    names = [f'name {letter}' for letter in 'abcdefghijk']
    locate = Tokenizer().locate
    of_four = chunks(names, locate, 254, PromptRules(max_names=4))
    assert [[index + 1 for index in chunk] for chunk in of_four] == official['chunks_of_4']
    assert chunks(names, locate, 9) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]


def test_chunks_fill_their_room_exactly():
    names = [f'{a} {b}' for a in ('red', 'striped', "jack-o'-lantern") for b in ('star', 'café', 'T-shirt')]
    rules, locate = PromptRules(), Tokenizer().locate
    for room in range(8, 40):
        found = chunks(names, locate, room)
        assert [index for chunk in found for index in chunk] == list(range(len(names)))
        for chunk in found:
            assert len(locate(class_prompt([names[i] for i in chunk], rules).text)[0]) <= room


def test_a_cup_and_its_blank():
    """Brackets leave a blank without a token: the span ends with the word before it."""
    prompt = class_prompt(['cup_(drink)', 'dog'])
    assert prompt.text == 'cup . dog'
    assert [tokens_of(spans, located(prompt.text)[1]) for spans in prompt.phrases] == [[1], [3]]


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ([], 'at least one class name'),
        (['(food)'], "nothing is left of the class name '\\(food\\)'"),
        (['___'], 'nothing is left'),
    ],
)
def test_prompts_of_nothing_are_refused(names, message):
    with pytest.raises(InputError, match=message):
        class_prompt(names)


def test_a_name_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r'dog dog dog.* has 30 tokens; 10 fit: shorten it'):
        chunks(['cat', 'dog ' * 30], Tokenizer().locate, 10)


def test_names_that_are_one_text():
    with pytest.warns(UserWarning, match=r"'cup \(drink\)' and 'cup_\(trophy\)' are both read as 'cup'"):
        warn_of_equal(['dog', 'cup (drink)', 'cup_(trophy)'])


def test_phrases_without_a_token_are_refused():
    with pytest.raises(InputError, match="no token for 'b'"):
        check_found(['a', 'b'], [[1], []])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'separator': ''}, 'separator must be a text'),
        ({'max_names': 0}, 'max_names must be a whole number, at least 1'),
        ({'last_token': True}, 'set per_phrase=True'),
        ({'negatives': -1}, 'negatives must be a whole number, at least 0'),
        ({'negatives': True}, 'negatives must be a whole number'),
        ({'wording': {'dog': 'a dog'}}, "wording of 'dog' must be three texts"),
        ({'wording': {'dog': ('a ', 1, '')}}, 'must be three texts'),
    ],
)
def test_wrong_rules_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        PromptRules(**options)
