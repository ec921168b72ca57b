"""Tiny BLIPs with the official weights of tests/golden."""

from __future__ import annotations

import pytest
import torch

from clipdense.clip.sizes import VitSize
from clipdense.methods.blip.checkpoint import from_official, save
from clipdense.methods.blip.model import build_blip
from clipdense.methods.blip.sizes import BlipSize, MedSize, SpecialIds
from clipdense.methods.blip.tokenizer import BlipTokenizer

HEADS = {'num_heads': 3, 'text_num_heads': 4}
IDS = SpecialIds(pad=0, cls=2, sep=3, dec=58, enc=59)
PRETRAIN_IDS = SpecialIds(pad=0, cls=2, sep=3, dec=48, enc=49)


def state_of(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def twice(state, shared):
    """The official file stores tensors that encoder and decoder share under both names."""
    both = {f'text_decoder.bert.{name}': state[f'text_encoder.{name}'] for name in shared}
    return {**state, **both}


@pytest.fixture
def official(golden):
    """``official('caption')`` or ``('retrieval')`` of transformers, ``('pretrain')`` of salesforce/BLIP."""

    def build(kind):
        if kind == 'pretrain':
            tensors, meta = golden('blip_pretrain_tiny')
            state = twice(state_of(tensors, 'state.'), meta['shared_between_encoder_and_decoder'])
            return from_official(state, **HEADS, ids=PRETRAIN_IDS)
        tensors, _ = golden('blip_tiny')
        return from_official(state_of(tensors, f'state.{kind}.'), **HEADS, ids=IDS, image_eps=1e-6)

    return build


def tiny_blip(**options):
    """A BLIP with random weights and a vocabulary of a few ids."""
    image = VitSize(32, 8, 24, 2, 3, 48, 16, activation='gelu', flavour='slip')
    text = MedSize(
        32, 2, 4, 48, vocab_size=60, context_length=40, ids=IDS, dropout=options.pop('dropout', 0.1)
    )
    torch.manual_seed(0)
    return build_blip(BlipSize(image, text, **{'embed_dim': 16, **options})).eval()


def lively_blip(std=0.5, **options):
    """The same with larger weights, so that texts depend on the image."""
    model = tiny_blip(**options)
    with torch.no_grad():
        for parameter in (one for one in model.parameters() if one.ndim > 1):
            parameter.normal_(std=std)
    return model


@pytest.fixture
def tiny():
    """``tiny(encoder=False, ...)``, see ``tiny_blip``."""
    return tiny_blip


VOCABULARY = (
    '[PAD]',
    '[UNK]',
    '[CLS]',
    '[SEP]',
    'a',
    'picture',
    'of',
    'cat',
    'dog',
    '##s',
    'on',
    'the',
    '.',
    '?',
)


def vocabulary_file(folder, size=58):
    """A vocab.txt without the two added ids."""
    file = folder / 'vocab.txt'
    words = [*VOCABULARY, *(f'word{index}' for index in range(size - len(VOCABULARY)))]
    file.write_text('\n'.join(words) + '\n', 'utf-8')
    return file


def write_captioner(folder, **options):
    """Weights of a captioning model with a vocabulary, and captions that depend on the image."""
    folder.mkdir(exist_ok=True)
    model = lively_blip(**{'encoder': False, 'embed_dim': 0, **options})
    model.tokenizer = BlipTokenizer(model.text_size, vocabulary_file(folder))
    save(model, folder / 'captions.safetensors')
    return folder / 'captions.safetensors'


@pytest.fixture
def captioning_file(tmp_path):
    """See ``write_captioner``."""
    return write_captioner(tmp_path / 'weights')
