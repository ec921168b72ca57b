"""Inputs of the section "Answers of a GLIPv2" of docs/input_contract.md."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.config import Config

from clipdense import Answerer, AnswerRules
from clipdense.clip import self_describing
from clipdense.methods.glip.v2.answer_head import AnswerHead
from clipdense.methods.glip.v2.detector import GLIPv2

from ..methods.glip.conftest import config

SECTION = 'Answers of a GLIPv2'
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
ANSWERS = ('yes', 'no', 'Light Blue')


def weights(folder, **objectives):
    torch.manual_seed(0)
    objectives = objectives or {'answers': {'answers': ANSWERS, 'image_size': 64}}
    model = {'objectives': objectives, **config()}
    path = folder / 'glip.safetensors'
    self_describing.save(GLIPv2(**model), path, Config({'model': {'type': GLIPv2, **model}}))
    return path


def asked(folder, question='a cat?', **rules):
    answerer = Answerer.from_pretrained(weights(folder), AnswerRules(**rules), device='cpu')
    found = answerer(IMAGE, question)
    for one in found if isinstance(found, list) else [found]:
        assert one.text in rules.get('choices', ANSWERS)
        assert one.score <= 0


def of_file(folder, content):
    (folder / 'answers.txt').write_text(content)
    return AnswerHead(8, folder / 'answers.txt').answers


def listed(folder):
    assert of_file(folder, 'yes\r\nno\n\n Light Blue \n') == ANSWERS


READ = {
    'one question or several': lambda folder: asked(folder, ['a cat?', 'Is the DOG "red"?', '???']),
    'question that does not fit': lambda folder: asked(folder, 'cat ' * 90),
    'empty question': lambda folder: asked(folder, ' '),
    'choices that the weights know': lambda folder: asked(folder, choices=('Yes', 'light  blue')),
    'other choices': lambda folder: asked(folder, choices=('yes', 'green')),
    'weights of a GLIPv2 without `answers`': lambda folder: Answerer.from_pretrained(
        weights(folder, contrast={}), device='cpu'
    ),
    '`answers` in a file': listed,
    'one answer': lambda folder: of_file(folder, 'yes\n'),
    'no answers': lambda folder: AnswerHead(8, []),
    'answers that differ in case or spaces': lambda folder: AnswerHead(8, ['yes', 'no', 'YES ']),
    'empty answer': lambda folder: AnswerHead(8, ['yes', '']),
    'answer that is not a text': lambda folder: AnswerHead(8, ['yes', 3]),
    'file that is missing': lambda folder: AnswerHead(8, folder / 'nothing.txt'),
}


def test_row(row, check):
    check(row, READ)
