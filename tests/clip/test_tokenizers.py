"""Tokenizers that come with weights, and travel on with them."""

from __future__ import annotations

import json

import pytest

from clipdense.clip.checkpoint import convert, load, save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize
from clipdense.clip.tokenizers import (
    FolderTokenizer,
    OpenAITokenizer,
    TokenizerRules,
    copy_tokenizer,
    find_tokenizer,
)
from clipdense.utils.errors import InputError

from ..vocab.hub_tokenizers import bert, nllb
from .conftest import SIGLIP, VIT, make, write


def test_tokenizer_of_openai_needs_nothing(tmp_path):
    size = ClipSize(VIT.image, TextSize(64, 1, 1, 64, 32, activation='gelu'))
    save(build_clip(size), tmp_path / 'clip.safetensors')
    row = load(tmp_path / 'clip.safetensors').tokenizer('a cat')[0]
    assert row[:4].tolist() == [49406, 320, 2368, 49407]


def test_missing_tokenizer_is_told_when_used(tmp_path):
    save(make(SIGLIP), tmp_path / 'clip.safetensors')
    clip = load(tmp_path / 'clip.safetensors')
    with pytest.raises(InputError, match=r'no tokenizer for its vocabulary of 50 tokens: put tokenizer.json'):
        clip.tokenizer('a cat')


@pytest.fixture
def tokenizer_files(tmp_path):
    tokenizers = pytest.importorskip('tokenizers')
    words = {'</s>': 0, '<unk>': 1, 'a': 2, 'cat': 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, '<unk>'))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = tmp_path / 'model'
    folder.mkdir()
    made.save(str(folder / 'tokenizer.json'))
    special = {'eos_token': '</s>', 'pad_token': '</s>', 'unk_token': '<unk>'}
    (folder / 'tokenizer_config.json').write_text(json.dumps(special))
    return folder


def test_tokenizer_travels_with_the_weights(tmp_path, tokenizer_files):
    write(make(SIGLIP), 'openclip_siglip', tokenizer_files / 'weights.safetensors')
    clip = load(tokenizer_files / 'weights.safetensors', activation='gelu_tanh')
    row = [2, 3] + [0] * 10
    assert clip.tokenizer('A cat!').tolist() == [row]
    save(clip, tmp_path / 'saved' / 'clip.safetensors')
    assert load(tmp_path / 'saved' / 'clip.safetensors').tokenizer('a cat').tolist() == [row]
    source = tmp_path / 'saved' / 'clip.safetensors'
    convert(source, tmp_path / 'hf', 'huggingface')
    assert load(tmp_path / 'hf').tokenizer('a cat').tolist() == [row]


TEXTS = ['a photo of a cat.', '', 'Two dogs [SEP] a [PAD] cat', 'word ' * 20]
CLIPA = TextSize(64, 1, 1, 64, 32, 200, 12, 'gelu', 'clipa')


@pytest.mark.filterwarnings('ignore:.*longer than')
def test_end_token_that_is_stripped(tmp_path):
    """CLIPA's setting of open_clip, with BERT's tokenizer; it travels with the files."""
    open_clip = pytest.importorskip('open_clip')
    folder = bert(tmp_path / 'bert')
    theirs = open_clip.tokenizer.HFTokenizer(str(folder), context_length=12, strip_sep_token=True)
    ours = FolderTokenizer(folder, CLIPA, TokenizerRules('whitespace', strip_end=True))
    assert ours(TEXTS).tolist() == theirs(TEXTS).tolist()
    assert ours.identity != FolderTokenizer(folder, CLIPA, TokenizerRules('whitespace')).identity
    copy_tokenizer(ours, tmp_path / 'clip-tokenizer')
    moved = find_tokenizer(CLIPA, tmp_path / 'clip.safetensors')
    assert moved is not None
    assert moved(TEXTS).tolist() == theirs(TEXTS).tolist()


def test_language_that_is_set_travels(tmp_path):
    size = TextSize(64, 1, 1, 64, 32, 300, 12, 'gelu', 'siglip')
    folder = nllb(tmp_path / 'nllb')
    tokenizer = FolderTokenizer(folder, size, TokenizerRules('whitespace'))
    english, before = tokenizer('cat')[0].tolist(), tokenizer.identity
    tokenizer.set_language('fra_Latn')
    french = tokenizer('cat')[0].tolist()
    assert (english[1:], english[0]) == (french[1:], french[0] - 3)
    assert tokenizer.identity != before
    copy_tokenizer(tokenizer, tmp_path / 'clip-tokenizer')
    moved = find_tokenizer(size, tmp_path / 'clip.safetensors')
    assert moved is not None
    assert moved('cat')[0].tolist() == french
    with pytest.raises(InputError, match="no language 'french'"):
        tokenizer.set_language('french')
    assert tokenizer('cat')[0].tolist() == french


def test_language_of_a_tokenizer_without_languages(tmp_path):
    with pytest.raises(InputError, match="has no languages, got language='deu_Latn'"):
        OpenAITokenizer().set_language('deu_Latn')
    save(make(VIT), tmp_path / 'clip.safetensors')
    with pytest.raises(InputError, match='no tokenizer for its vocabulary'):
        load(tmp_path / 'clip.safetensors', language='deu_Latn')
