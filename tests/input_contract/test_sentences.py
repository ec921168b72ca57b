"""Inputs of the section "Sentences" of docs/input_contract.md."""

from __future__ import annotations

import numpy as np
import torch

from clipdense.cli.detect import PhraseArguments
from clipdense.inference.detector import Detector
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.predictor import GLIPPredictor
from clipdense.vocab.sentences import Sentence

from ..methods.glip.conftest import config
from .test_class_names import each

SECTION = 'Sentences'
HOLES = 'there are some holes on the road'
IMAGE = np.zeros((64, 64, 3), np.uint8)


def names(expected, text, phrases=None):
    """The phrases of a sentence, with the words they stand for."""

    def read(folder):
        found = Sentence.of(text, phrases)
        assert found.class_names == expected

    return read


def ground(images, text):
    def read(folder):
        torch.manual_seed(0)
        Detector(GLIPPredictor(GLIP(**config()))).ground(images, text)

    return read


def option(**given):
    return lambda folder: PhraseArguments(text=HOLES, **given).read()


def of(text, phrases=None):
    return lambda folder: Sentence.of(text, phrases)


READ = {
    '`there are some holes on the road`': names(('some holes', 'the road'), HOLES),
    'phrases in another case': names(('some holes',), HOLES, ['SOME Holes']),
    'a phrase twice, in a sentence that has it twice': names(
        ('a dog', 'a dog (2)'), 'a dog, a dog', ['a dog'] * 2
    ),
    'brackets and signs of regular expressions in a phrase': names(
        ('[b+]', '(c.*)'), 'a [b+] (c.*)', ['[b+]', '(c.*)']
    ),
    'a phrase of several spans': names(('some road',), HOLES, [[[10, 14], [28, 32]]]),
    'an empty sentence, spaces, a number': each(of(''), of(' \n'), of(3), of(None, ['a'])),
    'a sentence without a noun': each(of('to run'), of('...'), of('the')),
    'a phrase that is not in the sentence': each(
        of(HOLES, ['cat']), of(HOLES, ['.*']), of(HOLES, ['(holes'])
    ),
    'a phrase more often than the sentence has it': of(HOLES, ['holes', 'holes']),
    'an empty phrase': of(HOLES, [' ']),
    'no phrases': of(HOLES, []),
    'phrases as one text': of(HOLES, 'holes'),
    'a single span, `[0, 2]`': of(HOLES, [[0, 2]]),
    'spans that are nested too deep': of(HOLES, [[[[0, 2], [3, 4]], [[5, 6], [7, 8]]]]),
    'a span outside of the sentence': each(
        of(HOLES, [[[0, 99]]]), of(HOLES, [[[-1, 2]]]), of(HOLES, [[[3, 3]]])
    ),
    'another number of sentences than images': ground([IMAGE, IMAGE], [HOLES]),
    'a sentence longer than the text tower reads': ground(IMAGE, 'a dog ' * 60),
    '`--text` with `--vocab` or `--class-list`': each(option(vocab='a.txt'), option(class_list='coco')),
}


def test_row(row, check):
    check(row, READ)
