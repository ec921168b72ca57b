"""Rows of token ids: equal to the official ones, cut with a warning, and those of Hugging Face folders."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from clipdense.utils.errors import InputError
from clipdense.vocab.byte_pairs import mend
from clipdense.vocab.huggingface import HuggingFaceTokenizer, canonicalize
from clipdense.vocab.tokenizer import Tokenizer, tokenize

CAT = [49406, 320, 1125, 539, 320, 2368, 269, 49407]  # "a photo of a cat."


@pytest.fixture
def official(golden_path):
    return json.loads(golden_path('openai_clip_tokens.json').read_text('utf-8'))


@pytest.mark.filterwarnings('ignore:.*longer than 77')
def test_ids_are_the_official_ones(official):
    rows = Tokenizer()([item['text'] for item in official['items']])
    for row, item in zip(rows, official['items'], strict=True):
        assert row.tolist() == item['ids'] + [0] * (77 - len(item['ids'])), item['text']


def test_encode_and_decode_as_the_official_ones(official):
    tokenizer = Tokenizer()
    for item in official['items']:
        ids = tokenizer.encode(item['text'])
        assert len(ids) == item['n_bpe'], item['text']
        if not item['truncated']:
            assert tokenizer.decode(ids) == item['decoded']
    assert (tokenizer.start, tokenizer.end) == (official['sot'], official['eot'])
    assert (tokenizer.vocab_size, tokenizer.context_length) == (official['vocab_size'], 77)


@pytest.mark.parametrize(
    ('texts', 'shape'),
    [('a cat', (1, 77)), ('', (1, 77)), (['a cat', 'a dog'], (2, 77)), ([], (0, 77)), (('a',), (1, 77))],
    ids=['text', 'empty text', 'list', 'empty list', 'tuple'],
)
def test_rows(texts, shape):
    rows = Tokenizer()(texts)
    assert rows.shape == shape
    assert rows.dtype == np.int64


@pytest.mark.parametrize('context_length', [8, 9, 77])
def test_context_length(context_length):
    row = Tokenizer(context_length)('A photo  of a CAT.')[0]
    assert row.tolist() == CAT + [0] * (context_length - 8)


def test_tokenize_gives_a_tensor():
    ids = tokenize(['a photo of a cat.', ''], context_length=10)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [CAT + [0, 0], [49406, 49407] + [0] * 8]


def test_text_that_just_fits_is_not_mentioned():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        row = Tokenizer()('word ' * 75)[0]
    assert row[-1] == 49407


def test_longer_text_is_cut_with_a_warning():
    with pytest.warns(
        UserWarning, match=r"'a black cat and a dog' is longer than 5 tokens.*'and a dog'"
    ) as told:
        row = Tokenizer(5)('a black cat and a dog')[0]
    assert row.tolist() == [49406, 320, 1449, 2368, 49407]
    assert len(told) == 1


def test_one_warning_a_call():
    with pytest.warns(UserWarning, match=r"'one two three' \(and 1 more\)") as told:
        Tokenizer(4)(['one two three', 'one', 'four five six'])
    assert len(told) == 1


def test_warnings_come_to_an_end():
    tokenizer = Tokenizer(4, max_warnings=2)
    with pytest.warns(UserWarning, match='longer than') as told:
        [tokenizer(f'text number {number}') for number in range(5)]
    assert [('not reported' in str(warning.message)) for warning in told] == [False, True]


def test_truncate_false_refuses():
    with pytest.raises(InputError, match='longer than 4 tokens; shorten it'):
        Tokenizer(4)('one two three', truncate=False)


@pytest.mark.parametrize('text', [None, 3, b'bytes', ['nested']], ids=repr)
def test_what_is_not_a_text_is_refused(text):
    with pytest.raises(InputError, match='must be a string'):
        Tokenizer()([text])


def test_no_room_for_a_word():
    with pytest.raises(InputError, match='is too short for any text'):
        Tokenizer(2)


def test_pickles_as_its_settings():
    tokenizer = Tokenizer(12, max_warnings=3)
    tokenizer.encode('some words to remember')
    data = pickle.dumps(tokenizer)
    copy = pickle.loads(data)
    assert len(data) < 200
    assert (copy.context_length, copy.max_warnings) == (12, 3)
    assert copy('a photo of a cat.').tolist() == tokenizer('a photo of a cat.').tolist()


def test_identity_tells_context_lengths_apart():
    assert Tokenizer().identity == Tokenizer(77).identity
    assert Tokenizer().identity != Tokenizer(76).identity


def test_needs_no_heavy_import():
    code = (
        'import sys; from clipdense.vocab.tokenizer import Tokenizer; Tokenizer()("a cat"); '
        'print({"torch", "open_clip", "ftfy", "transformers"} & set(sys.modules))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'set()'


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_any_text_as_open_clip():
    """open_clip gives OpenAI's ids but for texts that spell out the special tokens."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    theirs, ours = pytest.importorskip('open_clip').tokenizer.SimpleTokenizer(), Tokenizer()

    @settings(max_examples=3000, deadline=None, database=None)
    @given(st.text(max_size=100) | st.text("aAsStTr'’ſK&;#x1pqüß€â™\n\x1c\x85日0٣²", max_size=60))
    def check(text):
        assert 'text|>' in text.lower() or ours.encode(text) == theirs.encode(text)

    check()


# A folder as SigLIP's: </s> ends a text and pads it.
VOCAB = {'<pad>': 0, '</s>': 1, '<unk>': 2, 'a': 3, 'photo': 4, 'of': 5, 'cat': 6, 'dont': 7, 'snake': 8}


@pytest.fixture
def folder(tmp_path):
    tokenizers = pytest.importorskip('tokenizers')
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCAB, unk_token='<unk>'))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing('$A </s>', special_tokens=[('</s>', 1)])
    backend.enable_padding(length=3)  # settings of whoever saved it are no business of ours
    backend.save(str(tmp_path / 'tokenizer.json'))
    pad = {'__type': 'AddedToken', 'content': '</s>'}
    write_config(tmp_path, eos_token='</s>', pad_token=pad, tokenizer_class='SiglipTokenizer')
    return tmp_path


def write_config(folder, **values):
    (folder / 'tokenizer_config.json').write_text(json.dumps(values))


@pytest.mark.parametrize(
    ('text', 'ids'),
    [
        ('A photo of a CAT.', [3, 4, 5, 3, 6, 1, 1, 1]),
        ("Don't, snake_cat!", [7, 8, 6, 1, 1, 1, 1, 1]),
        ('', [1] * 8),
        ('zebra', [2, 1, 1, 1, 1, 1, 1, 1]),
        ('a a a a a a a', [3, 3, 3, 3, 3, 3, 3, 1]),
    ],
)
def test_siglip_rows(folder, text, ids):
    assert HuggingFaceTokenizer(folder, context_length=8)(text).tolist() == [ids]


def test_siglip_rows_as_transformers(folder):
    theirs = pytest.importorskip('transformers').PreTrainedTokenizerFast.from_pretrained(folder)
    texts = ['a photo', 'A photo, of a cat', 'cat ' * 20]
    with pytest.warns(UserWarning, match='longer than 8 tokens'):
        ours = HuggingFaceTokenizer(folder, 8)(texts)
    cleaned = [canonicalize(text) for text in texts]
    assert ours.tolist() == theirs(cleaned, padding='max_length', max_length=8, truncation=True)['input_ids']


@pytest.mark.parametrize(
    ('clean', 'ids'), [('canonicalize', [3, 6]), ('lower', [3, 6, 2]), ('none', [2, 6, 2])], ids=str
)
def test_cleaning(folder, clean, ids):
    assert HuggingFaceTokenizer(folder, 8, clean).encode('A cat!') == ids


def test_start_token_where_the_folder_asks_for_one(folder):
    write_config(folder, eos_token='</s>', pad_token='<pad>', bos_token='<unk>', add_bos_token=True)
    assert HuggingFaceTokenizer(folder, 6)('a cat').tolist() == [[2, 3, 6, 1, 0, 0]]


def test_older_folders_are_read_with_transformers(tmp_path):
    pytest.importorskip('transformers')
    vocab = {'<|startoftext|>': 0, '<|endoftext|>': 1, 'a</w>': 2, 'c': 3, 't</w>': 4, 'at</w>': 5, 'a': 6}
    (tmp_path / 'vocab.json').write_text(json.dumps(vocab))
    (tmp_path / 'merges.txt').write_text('#version: 0.2\na t</w>\n')
    end = '<|endoftext|>'
    write_config(tmp_path, tokenizer_class='CLIPTokenizer', eos_token=end, pad_token=end, unk_token=end)
    assert HuggingFaceTokenizer(tmp_path, 6)('A cat.').tolist() == [[0, 2, 3, 5, 1, 1]]


def test_siglip_tokenizer_pickles(folder):
    tokenizer = HuggingFaceTokenizer(folder, 8, 'lower')
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy('a cat!').tolist() == tokenizer('a cat!').tolist()
    assert copy.identity == tokenizer.identity
    assert copy.identity != HuggingFaceTokenizer(folder, 8).identity
    assert copy.vocab_size == 9


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda folder: folder / 'absent', 'does not exist'),
        (lambda folder: (folder / 'tokenizer.json').write_text('{"model": 3}'), 'cannot read the tokenizer'),
        (lambda folder: (folder / 'tokenizer_config.json').write_text('<html>'), 'is not valid JSON'),
        (lambda folder: (folder / 'tokenizer_config.json').unlink(), 'pad_token in .* must be a known token'),
        (lambda folder: write_config(folder, eos_token='</s>', pad_token='<none>'), "pad_token.*'<none>'"),
    ],
    ids=['does not exist', 'damaged', 'html', 'no config', 'unknown pad token'],
)
def test_bad_folders(folder, spoil, message):
    spoilt = spoil(folder)
    with pytest.raises(InputError, match=message):
        HuggingFaceTokenizer(spoilt if hasattr(spoilt, 'is_dir') else folder)


def test_unknown_cleaning(folder):
    with pytest.raises(InputError, match='canonicalize, no_punctuation'):
        HuggingFaceTokenizer(folder, clean='upper')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ("A Jack-o'-lantern", ['A', 'Jack', '-', 'o', "'-", 'lantern']),
        ('  café  42 ', ['café', '4', '2']),
        ('İstanbul kedi', None),  # a capital letter that is two characters in lower case
        ('a\n一张 🐈', None),
        ('<|endoftext|> x', ['<|endoftext|>', 'x']),
        ('', []),
    ],
)
def test_tokens_are_located_in_the_text(text, words):
    tokenizer = Tokenizer()
    ids, places = tokenizer.locate(text)
    assert len(ids) == len(places)
    read = [text[start:end] for start, end in places]
    if words is not None:
        assert read == words
    covered = {char for start, end in places for char in range(start, end)}
    assert covered == {place for place, char in enumerate(text) if not char.isspace()}
    assert places == sorted(places)


def test_located_ids_are_those_of_encode(official):
    tokenizer = Tokenizer()
    for item in official['items']:
        text = mend(item['text'])
        assert tokenizer.locate(text)[0] == tokenizer.encode(item['text']), text
