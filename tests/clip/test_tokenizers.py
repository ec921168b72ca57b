"""Tokenizers that come with weights, and travel on with them."""

from __future__ import annotations

import json

import pytest

from clipdense.clip.checkpoint import convert, load, save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize
from clipdense.utils.errors import InputError

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
