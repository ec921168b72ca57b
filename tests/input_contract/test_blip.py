"""Inputs of the section "Captions by a BLIP" of docs/input_contract.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipdense import Captioner, CaptionRules
from clipdense.clip.checkpoint import save as save_clip
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.methods.blip.checkpoint import save, to_official
from clipdense.weights.io import write_weights

from ..methods.blip.conftest import tiny_blip, vocabulary_file, write_captioner

SECTION = 'Captions by a BLIP'
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def describe(weights, **rules):
    """The caption of an image."""
    return Captioner.from_pretrained(weights, CaptionRules(**rules), device='cpu')(IMAGE).text


def parts(folder, **options):
    """Weights of a BLIP with other parts."""
    save(tiny_blip(**options), folder / 'parts.safetensors')
    return folder / 'parts.safetensors'


def of_a_clip(folder):
    size = ClipSize(VitSize(32, 8, 32, 2, 2, 64, 16), TextSize(32, 1, 2, 64, 16))
    save_clip(build_clip(size), folder / 'clip.safetensors')
    return folder / 'clip.safetensors'


def plain_bert(folder):
    tensors = to_official(tiny_blip(encoder=False, embed_dim=0))
    for name in tensors:
        if name.endswith(('word_embeddings.weight', 'predictions.decoder.weight')):
            tensors[name] = torch.zeros(30522, 32)
    write_weights(folder / 'plain.safetensors', tensors)
    return folder / 'plain.safetensors'


def nlvr(folder):
    """Two cross-attentions in each layer, and a head for pairs of images."""
    names = {'.crossattention.self.': '.crossattention.self0.', 'itm_head.': 'cls_head.0.'}
    tensors = to_official(tiny_blip(decoder=False))
    for name in list(tensors):
        for one, other in names.items():
            if one in name:
                tensors[name.replace(one, other)] = tensors.pop(name)
    write_weights(folder / 'nlvr.safetensors', tensors)
    return folder / 'nlvr.safetensors'


def vocabulary(folder, size):
    file = write_captioner(folder / 'weights')
    for one in (file.parent / 'vocab.txt', *file.parent.glob('*-tokenizer/vocab.txt')):
        one.unlink()
    if size:
        vocabulary_file(file.parent, size)
    return file


def accepted(folder, **rules):
    assert isinstance(describe(write_captioner(folder / 'weights'), **rules), str)


def ends_at_once(folder):
    model = tiny_blip(encoder=False, embed_dim=0)
    model.tokenizer.file = vocabulary_file(folder)
    with torch.no_grad():
        model.decoder.head.bias[model.text_size.ids.sep] = 1000.0
    assert describe(model, min_length=0) == ''


READ = {
    'file of clipdense, salesforce/BLIP or Hugging Face for captioning': accepted,
    'weights of pre-training': lambda folder: describe(
        write_captioner(folder / 'weights', encoder=True, embed_dim=16)
    ),
    'weights for retrieval': lambda folder: describe(parts(folder, decoder=False)),
    'weights for question answering': lambda folder: describe(parts(folder, shared=False, embed_dim=0)),
    'weights of a CLIP': lambda folder: describe(of_a_clip(folder)),
    'weights for NLVR2': lambda folder: describe(nlvr(folder)),
    'word embeddings of a plain BERT': lambda folder: describe(plain_bert(folder)),
    'no vocabulary, and not the one of BERT': lambda folder: describe(vocabulary(folder, 0)),
    'vocabulary of a larger model': lambda folder: describe(vocabulary(folder, 61)),
    'empty prompt': lambda folder: accepted(folder, prompt=''),
    'prompt longer than the minimum length': lambda folder: accepted(folder, prompt='a cat on the ' * 2),
    'prompt without room for a caption': lambda folder: accepted(folder, prompt='a cat on the ' * 5),
    'more tokens than positions': lambda folder: accepted(folder, max_length=41),
    'more beams than the vocabulary has ids': lambda folder: accepted(folder, beams=61),
    'prompt with characters that the vocabulary lacks': lambda folder: accepted(folder, prompt='猫 '),
    'image whose caption ends at once': ends_at_once,
}


def test_row(row, check):
    check(row, READ)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv('CLIPDENSE_OFFLINE', '1')
