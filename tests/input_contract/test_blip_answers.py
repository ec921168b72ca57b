"""Inputs of the section "Answers of a BLIP" of docs/input_contract.md."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clipdense import Answerer, AnswerRules
from clipdense.clip.checkpoint import save as save_clip
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.methods.blip.checkpoint import save
from clipdense.methods.blip.model import build_blip

from ..methods.blip.conftest import tiny_blip, vocabulary_file, write_captioner

SECTION = 'Answers of a BLIP'
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
ANSWERS = {'encoder': True, 'shared': False}


def ask(weights, question='a cat?', **rules):
    """The answer to a question."""
    return Answerer.from_pretrained(weights, AnswerRules(**rules), device='cpu')(IMAGE, question)


def asked(folder, question='a cat?', **rules):
    found = ask(write_captioner(folder / 'weights', **ANSWERS), question, **rules)
    for one in found if isinstance(found, list) else [found]:
        assert isinstance(one.text, str)
        assert not rules.get('choices') or one.text in rules['choices']


def parts(folder, **options):
    """Weights of a BLIP with other parts."""
    save(tiny_blip(**options), folder / 'parts.safetensors')
    return folder / 'parts.safetensors'


def of_a_clip(folder):
    size = ClipSize(VitSize(32, 8, 32, 2, 2, 64, 16), TextSize(32, 1, 2, 64, 16))
    save_clip(build_clip(size), folder / 'clip.safetensors')
    return folder / 'clip.safetensors'


def shorter_positions(folder):
    """35 tokens are more than this model has positions."""
    size = tiny_blip(shared=False, embed_dim=0).size
    model = build_blip(replace(size, text=replace(size.text, context_length=12)))
    vocabulary_file(folder)
    save(model, folder / 'short.safetensors')
    return folder / 'short.safetensors'


READ = {
    'file of clipdense, salesforce/BLIP or Hugging Face for question answering': asked,
    'several questions': lambda folder: asked(folder, ['a cat?', 'a dog on the cat?']),
    'question in capitals, with punctuation': lambda folder: asked(folder, 'A Cat: on "the" DOG?!'),
    'question of more than 35 tokens': lambda folder: asked(folder, 'cat ' * 40),
    'question longer than the positions of the model': lambda folder: ask(
        shorter_positions(folder), 'cat ' * 20, max_length=8
    ),
    'question of punctuation only': lambda folder: asked(folder, '!!!'),
    'empty question': lambda folder: asked(folder, ' '),
    'no question': lambda folder: asked(folder, []),
    'question that is not a text': lambda folder: asked(folder, [3]),
    'choices': lambda folder: asked(folder, choices=('cat', 'dog', 'cat on the dog')),
    'more choices than candidates': lambda folder: asked(folder, choices=('cat', 'dog', 'on'), candidates=1),
    'one choice': lambda folder: asked(folder, choices=('cat',)),
    'choices as one text': lambda folder: asked(folder, choices='cat, dog'),
    'choice that occurs twice': lambda folder: asked(folder, choices=('cat', 'dog', 'cat')),
    'empty choice': lambda folder: asked(folder, choices=('cat', '')),
    'more answer tokens than positions': lambda folder: asked(folder, max_length=41),
    'more beams than the vocabulary has ids': lambda folder: asked(folder, beams=61),
    'question with characters that the vocabulary lacks': lambda folder: asked(folder, '猫?'),
    'weights for captioning': lambda folder: ask(write_captioner(folder / 'weights')),
    'weights for retrieval': lambda folder: ask(parts(folder, decoder=False)),
    'weights of pre-training': lambda folder: ask(parts(folder)),
    'weights of a CLIP': lambda folder: ask(of_a_clip(folder)),
}


def test_row(row, check):
    check(row, READ)
