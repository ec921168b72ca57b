"""Models, weights and tokenizers by name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import clipdense
from clipdense.clip import factory
from clipdense.clip.checkpoint import save
from clipdense.clip.factory import create_model, get_tokenizer
from clipdense.clip.listing import list_models
from clipdense.clip.preprocess import Preprocess
from clipdense.utils.errors import InputError
from clipdense.weights import hub, zoo
from clipdense.weights.download import NotPublished

from .conftest import SIGLIP, VIT, assert_same_model, make

TINY = replace(VIT, text=replace(VIT.text, vocab_size=49408))


@pytest.fixture(autouse=True)
def published(monkeypatch):
    """Small sizes under the names of large ones: nothing here depends on them."""
    monkeypatch.setattr(factory, 'PUBLISHED', {'ViT-B-16': TINY, 'ViT-B-16-SigLIP': SIGLIP})


def test_names_are_found_by_part_and_by_pattern():
    assert clipdense.list_models is list_models
    names = list_models()
    assert names[0] == 'RN50/openai'
    assert len(names) == len(set(names)) == len(zoo.ZOO)
    assert list_models('vit-l-14-336/OPENAI') == ['ViT-L-14-336/openai']
    assert len(list_models('*/openai')) == 9
    assert list_models('RN50/openai*') == ['RN50/openai']
    assert list_models('no such') == []


def test_a_name_without_weights_gives_fresh_ones():
    clip = create_model('ViT-B-16', dtype=torch.float64)
    assert clip.size == TINY
    assert not clip.training
    assert {p.dtype for p in clip.parameters()} == {torch.float64}
    siglip = create_model('ViT-B-16-SigLIP')
    assert siglip.preprocess == Preprocess.named('siglip', SIGLIP.image.image_size)
    with pytest.raises(InputError, match='has no tokenizer: use get_tokenizer'):
        siglip.tokenizer('a cat')


@pytest.mark.parametrize('call', [('ViT-B-16/openai',), ('ViT-B-16', 'openai'), ('ViT-B-16:openai',)])
def test_published_weights(tmp_path, monkeypatch, call):
    clip = make(TINY)
    save(clip, tmp_path / 'clip.safetensors')
    asked = []
    monkeypatch.setattr(zoo, 'fetch', lambda entry: asked.append(entry.name) or tmp_path / 'clip.safetensors')
    assert_same_model(create_model(*call), clip)
    assert asked == ['ViT-B-16/openai']


def test_weights_from_a_file(tmp_path):
    clip = make(TINY)
    save(clip, tmp_path / 'clip.safetensors')
    assert_same_model(create_model('ViT-B-16', tmp_path / 'clip.safetensors'), clip)
    with pytest.raises(InputError, match='is not a ViT-B-16-SigLIP'):
        create_model('ViT-B-16-SigLIP', str(tmp_path / 'clip.safetensors'))


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (('ViT-B16',), r"unknown model 'ViT-B16'\. Did you mean 'ViT-B-16'\?"),
        (('ViT-B-16/opnai',), r"Did you mean 'ViT-B-16/openai'"),
        (('ViT-B-16', 'opnai'), r"Did you mean 'ViT-B-16/openai'"),
        (('ViT-B-16/openai', 'openai'), r"already specifies weights; remove pretrained='openai'"),
    ],
)
def test_unknown_names(call, message):
    with pytest.raises(InputError, match=message):
        create_model(*call)


def test_tokenizers(tmp_path, monkeypatch):
    assert clipdense.get_tokenizer is get_tokenizer
    for name in ('ViT-B-16', 'ViT-B-16/openai', 'RN50/openai'):
        ids = get_tokenizer(name)(['a cat', 'a dog'])
        assert ids[:, :4].tolist() == [[49406, 320, 2368, 49407], [49406, 320, 1929, 49407]]
    with pytest.raises(InputError, match=r"Did you mean 'ViT-B-16/openai'"):
        get_tokenizer('ViT-B-16/opnai')


def test_tokenizer_of_siglip(tmp_path, monkeypatch):
    tokenizers = pytest.importorskip('tokenizers')
    if 'ViT-B-16-SigLIP/webli' not in zoo.ZOO:
        pytest.skip('open_clip is not installed')
    words = {'</s>': 0, '<unk>': 1, 'a': 2, 'cat': 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, '<unk>'))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path))
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'none'))
    special = json.dumps({'eos_token': '</s>', 'pad_token': '</s>', 'unk_token': '<unk>'}).encode()
    files = {'tokenizer.json': made.to_str().encode(), 'tokenizer_config.json': special}

    def download(url, target, digest=''):
        name = url.rsplit('/', 1)[1]
        if name not in files:
            raise NotPublished(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[name])
        return target

    monkeypatch.setattr(hub, 'download', download)
    for name in ('ViT-B-16-SigLIP', 'ViT-B-16-SigLIP/webli'):
        assert get_tokenizer(name)('A cat!')[0].tolist() == [2, 3] + [0] * 62
