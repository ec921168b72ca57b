"""Repositories of Hugging Face: from its cache, from a server in its place, or refused in one line."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
import torch
from safetensors.torch import save_file

from clipdense.clip.checkpoint import convert, load
from clipdense.clip.factory import get_tokenizer
from clipdense.clip.sizes import ClipSize, TextSize
from clipdense.utils.errors import InputError
from clipdense.weights import zoo
from clipdense.weights.download import NotPublished, download
from clipdense.weights.hub import Repository
from clipdense.weights.zoo import Entry

from ..clip.conftest import VIT, make, write
from ..vocab.hub_tokenizers import bert, xlm_roberta

IDS = torch.tensor([[48, 7, 49, 0]])


@pytest.mark.parametrize(
    ('text', 'name', 'revision'),
    [
        ('openai/clip-vit-base-patch16', 'openai/clip-vit-base-patch16', 'main'),
        ('hf-hub:timm/ViT-B-16-SigLIP', 'timm/ViT-B-16-SigLIP', 'main'),
        ('me/clip_2.0@v1', 'me/clip_2.0', 'v1'),
        ('hf-hub:me/clip@refs/pr/1', 'me/clip', 'refs/pr/1'),
    ],
)
def test_names(text, name, revision):
    assert Repository.of(text) == Repository(name, revision)


@pytest.mark.parametrize(
    'text',
    [
        'clip',
        'a/b/c',
        '../clip',
        'a/..',
        'a/b@../c',
        'a b/c',
        'a/b@',
        'a/b@/c',
        'hf-hub:clip',
        '',
        'ä/b',
        'a\\b',
    ],
)
def test_what_is_not_a_name(text):
    assert Repository.of(text) is None


@pytest.fixture
def clip(tmp_path):
    made = make(VIT)
    made.logit_scale.data.fill_(2.66)
    write(made, 'openclip_vit', tmp_path / 'source.safetensors')
    return made


def publish(source, place, layout, shards=False):
    """A folder of a CLIP as its publisher uploads it."""
    convert(source, place, layout, activation='gelu', preprocess='openai', eos_token_id=49, overwrite=True)
    if shards:
        from safetensors.torch import load_file

        file = place / 'model.safetensors'
        tensors = load_file(file)
        file.unlink()
        names = sorted(tensors)
        halves = {'model-1.safetensors': names[::2], 'model-2.safetensors': names[1::2]}
        for name, half in halves.items():
            save_file({key: tensors[key] for key in half}, place / name, {'format': 'pt'})
        index = {'weight_map': {key: name for name, half in halves.items() for key in half}}
        (place / 'model.safetensors.index.json').write_text(json.dumps(index))


LAYOUTS = {
    'Hugging Face': ('huggingface', False),
    'shards': ('huggingface', True),
    'open_clip': ('openclip', False),
}


@pytest.mark.parametrize('prefix', ['', 'hf-hub:'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_downloaded_once(hub, clip, tmp_path, layout, prefix):
    publish(tmp_path / 'source.safetensors', hub.repository('me/clip'), *LAYOUTS[layout])
    found = load(f'{prefix}me/clip')
    torch.testing.assert_close(found.encode_text(IDS), clip.eval().encode_text(IDS))
    assert not [authorization for _, authorization in hub.asked if authorization]
    count = len(hub.asked)
    load('me/clip')
    assert len(hub.asked) == count


def test_revision(hub, clip, tmp_path):
    publish(tmp_path / 'source.safetensors', hub.repository('me/clip', 'v1'), 'huggingface')
    load('me/clip@v1')
    with pytest.raises(InputError, match=r'me/clip has no open_clip_config.json or config.json, or does not'):
        load('me/clip')


@pytest.mark.parametrize('revision', ['main', 'abc'])
def test_cache_of_hugging_face(hub, clip, tmp_path, monkeypatch, revision):
    cache = tmp_path / 'home/.cache/huggingface/hub/models--me--clip'
    publish(tmp_path / 'source.safetensors', cache / 'snapshots/abc', 'huggingface')
    (cache / 'refs').mkdir()
    (cache / 'refs/main').write_text('abc')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    load('me/clip' if revision == 'main' else 'me/clip@abc')
    assert not hub.asked
    with pytest.raises(InputError, match='not cached'):
        load('me/clip@v2')


def test_local_folder_wins(hub, clip, tmp_path, monkeypatch):
    publish(tmp_path / 'source.safetensors', tmp_path / 'me/clip', 'huggingface')
    monkeypatch.chdir(tmp_path)
    load('me/clip')
    assert not hub.asked


def no_weights(hub, _):
    (hub.repository('me/clip') / 'config.json').write_text('{"model_type": "clip"}')


def gated(hub, _):
    hub.gated.add('me/clip')


def wrong_token(hub, monkeypatch):
    gated(hub, monkeypatch)
    monkeypatch.setenv('HF_TOKEN', ' ')


def offline(_, monkeypatch):
    monkeypatch.setenv('CLIPDENSE_OFFLINE', '1')
    monkeypatch.setattr(socket.socket, 'connect', None)


def unreachable(_, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:1')


def index_of_other_folders(hub, monkeypatch):
    no_weights(hub, monkeypatch)
    index = hub.repository('me/clip') / 'model.safetensors.index.json'
    index.write_text('{"weight_map": {"a": "../../secret"}}')


REFUSED = [  # what is the matter, name, parts of the message
    (lambda hub, _: None, 'me/clip', 'has no open_clip_config.json or config.json, or does not exist'),
    (no_weights, 'me/clip', r'has no weights file model.safetensors or .*\.index\.json'),
    (gated, 'me/clip', 'HTTP status 401.*is private or gated: then set HF_TOKEN'),
    (wrong_token, 'me/clip', 'HTTP status 401.*is private or gated: then set HF_TOKEN'),
    (offline, 'me/clip', 'CLIPDENSE_OFFLINE=1 disables downloads: unset it, or download the repository else'),
    (offline, 'hf-hub:me/clip', 'the repository me/clip is not cached .*models--me--clip.* give its folder'),
    (unreachable, 'hf-hub:me/clip', 'not cached .*127.0.0.1:1/me/clip/resolve/main/.* cannot be reached'),
    (index_of_other_folders, 'me/clip', 'must list weights files of its own folder'),
    (lambda hub, _: None, 'hf-hub:clip', 'does not name a repository, as hf-hub:ORGANIZATION/NAME does'),
    (lambda hub, _: None, 'hf-hub:a/b/c', 'does not name a repository'),
]


@pytest.mark.parametrize(('spoil', 'name', 'message'), REFUSED)
def test_refused_in_one_line(hub, monkeypatch, spoil, name, message):
    spoil(hub, monkeypatch)
    with pytest.raises(InputError, match=message) as caught:
        load(name)
    assert '\n' not in str(caught.value)
    assert name.startswith('hf-hub:') or 'me/clip does not exist as a file, and unknown' in str(caught.value)


@pytest.mark.parametrize(
    'name', ['ViT-B-16/opnai', 'ViT-B-61/openai', 'runs/clip', 'clip', 'a/b/c', './me/clip']
)
def test_other_names_are_not_looked_up(hub, tmp_path, monkeypatch, name):
    (tmp_path / 'runs').mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='does not exist'):
        load(name)
    assert not hub.asked


def test_interrupted_download_is_resumed(hub, clip, tmp_path):
    place = hub.repository('me/clip')
    publish(tmp_path / 'source.safetensors', place, 'huggingface', shards=True)
    shutil.move(place / 'model-2.safetensors', tmp_path)
    with pytest.raises(InputError, match=r'model-2\.safetensors does not exist \(404\)'):
        load('me/clip')
    shutil.move(tmp_path / 'model-2.safetensors', place)
    load('me/clip')
    assert [path for path, _ in hub.asked].count('/me/clip/resolve/main/model-1.safetensors') == 1


def test_token_goes_to_the_hub_only(hub, elsewhere, tmp_path, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', 'secret')
    hub.gated.add('me/clip')
    (hub.repository('me/clip') / 'config.json').write_text('{}')
    (elsewhere.repository('cdn/x') / 'weights.bin').write_text('x')
    hub.moved = {
        '/me/clip/resolve/main/weights.bin': f'{elsewhere.url}/cdn/x/resolve/main/weights.bin',
        '/old/clip/resolve/main/config.json': '/me/clip/resolve/main/config.json',
    }
    for number, path in enumerate(('me/clip/resolve/main/weights.bin', 'old/clip/resolve/main/config.json')):
        download(f'{hub.url}/{path}', tmp_path / f'file {number}')
    assert {authorization for _, authorization in hub.asked} == {'Bearer secret'}
    assert [authorization for _, authorization in elsewhere.asked] == [None]
    with pytest.raises(NotPublished):
        download(f'{elsewhere.url}/other', tmp_path / 'other')
    assert elsewhere.asked[-1] == ('/other', None)


# Tokenizers of names


ENTRY = Entry(
    *('A/hub', '', 'me/weights', ('open_clip_model.safetensors',), '', 'MIT'),
    {
        'model_cfg': {
            'embed_dim': 32,
            'vision_cfg': {'image_size': 16, 'layers': 2, 'width': 64, 'patch_size': 4, 'mlp_ratio': 1.5},
            'text_cfg': {
                'hf_tokenizer_name': 'bert-tiny',
                'context_length': 12,
                'vocab_size': 300,
                'width': 64,
                'heads': 1,
                'layers': 2,
                'pool_type': 'last',
                'no_causal_mask': True,
            },
        }
    },
)


@pytest.fixture
def entry(monkeypatch):
    monkeypatch.setattr(zoo, '_openai', lambda: {'A/hub': ENTRY})
    monkeypatch.setattr(zoo, '_all', lambda: {'A/hub': ENTRY})
    return ENTRY


def test_tokenizer_of_the_weights_comes_first(hub, entry):
    bert(hub.repository('bert-tiny'), tokenizer_class='BertTokenizer', pad_token='[PAD]')
    xlm_roberta(hub.repository('me/weights'))
    assert get_tokenizer('A/hub')('a cat')[0, 0] == 0
    assert not [path for path, _ in hub.asked if 'bert-tiny' in path]
    count = len(hub.asked)
    get_tokenizer('A/hub')('a cat')
    assert len(hub.asked) == count


def test_tokenizer_of_the_config_comes_next(hub, entry):
    """Its files name no class: the model type is that of config.json."""
    bert(hub.repository('bert-tiny'), strip_accents=None)
    row = get_tokenizer('A/hub')('a cat')[0].tolist()
    assert (row[0], row[-1]) == (2, 0)


def test_tokenizer_in_the_cache_of_hugging_face(hub, entry, tmp_path, monkeypatch):
    cache = tmp_path / 'home/.cache/huggingface/hub/models--bert-tiny'
    bert(cache / 'snapshots/abc')
    (cache / 'refs').mkdir()
    (cache / 'refs/main').write_text('abc')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert get_tokenizer('A/hub')('a cat')[0, 0] == 2
    assert not hub.asked


TOKENIZERS = [
    (
        lambda hub, _: None,
        r'in the repositories me/weights and bert-tiny: they have none; or put',
    ),
    (
        offline,
        'me/weights and bert-tiny, is not cached and CLIPDENSE_OFFLINE=1 .* put tokenizer',
    ),
    (unreachable, 'me/weights and bert-tiny: .* cannot be reached .* or put tokenizer.json'),
]


@pytest.mark.parametrize(('spoil', 'message'), TOKENIZERS)
def test_no_tokenizer(hub, entry, monkeypatch, spoil, message):
    spoil(hub, monkeypatch)
    with pytest.raises(InputError, match=message) as caught:
        get_tokenizer('A/hub')
    assert '\n' not in str(caught.value)


def test_repository_of_the_weights_that_is_closed(hub, entry):
    hub.gated.add('me/weights')
    bert(hub.repository('bert-tiny'))
    assert get_tokenizer('A/hub')('a cat')[0, 0] == 2


def test_weights_whose_repository_has_no_tokenizer(hub, entry):
    text = TextSize(64, 2, 1, 256, 32, 300, 12, 'gelu', 'clipa')
    made = make(ClipSize(VIT.image, text))
    made.logit_scale.data.fill_(2.66)
    write(made, 'openclip_vit', hub.repository('me/weights') / 'open_clip_model.safetensors')
    with pytest.raises(InputError, match='in the repositories me/weights and bert-tiny: they have none'):
        load('A/hub').tokenizer('a cat')
    bert(hub.repository('bert-tiny'))
    assert load('A/hub').tokenizer('a cat')[0, 0] == 2
