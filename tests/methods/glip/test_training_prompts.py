"""Texts of images with captions, and what becomes of their phrases."""

from __future__ import annotations

import random

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from clipdense.methods.glip.prompts import PromptRules
from clipdense.methods.glip.training_prompts import training_prompts
from clipdense.registry import MODELS, build
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .conftest import text_tower

CAPTION = 'a red star left of a cup (blue)'
PHRASES = (((2, 10),), ((21, 31),))


def sample(caption=CAPTION, phrases=PHRASES, labels=(1, 0, 1), others=()):
    one = DetDataSample(metainfo={'caption': caption, 'phrases': phrases, 'other_captions': list(others)})
    boxes = torch.zeros(len(labels), 4)
    one.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor(labels, dtype=torch.int64))
    return one


def named(*labels):
    one = DetDataSample(metainfo={})
    boxes = torch.zeros(len(labels), 4)
    one.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor(labels, dtype=torch.int64))
    return one


@pytest.fixture(scope='module')
def text():
    return build(text_tower(context_length=24), MODELS)  # 22 tokens fit


def read(one, text, **rules):
    ((prompt, rows, *_),) = training_prompts([one], None, PromptRules(**rules), text)
    return prompt, [None if row < 0 else prompt.names[row] for row in rows.tolist()]


def test_the_caption_alone(text):
    prompt, words = read(sample(), text)
    assert prompt.text == CAPTION + '.'
    assert words == ['cup (blue)', 'red star', 'cup (blue)']


def test_captions_of_other_images_are_around_it(text):
    texts = set()
    for seed in range(8):
        random.seed(seed)
        prompt, words = read(sample(others=['two dogs', 'a long train']), text)
        assert words == ['cup (blue)', 'red star', 'cup (blue)']
        texts.add(prompt.text)
    assert f'two dogs. {CAPTION}. a long train.' in texts


def test_others_that_do_not_fit_are_left_out(text):
    prompt, _ = read(sample(others=['one ' * 20, 'two dogs']), text)
    assert sorted(prompt.text.split('. ')) in (
        sorted([CAPTION, 'two dogs.']),
        sorted([f'{CAPTION}.', 'two dogs']),
    )
    assert len(text.locate(prompt.text)[0]) <= text.room


def test_the_end_of_a_long_caption_is_cut_off(text):
    long = 'a cat ' * 11 + 'and a dog'
    phrases = (((2, 5),), ((len(long) - 3, len(long)),))
    with pytest.warns(UserWarning, match='1 of 2 phrases and their boxes'):
        prompt, words = read(sample(long, phrases, (0, 1)), text)
    assert words == ['cat', None]
    assert len(text.locate(prompt.text)[0]) <= text.room + 1  # and the separator, which is not needed


def test_each_phrase_by_itself(text):
    one = sample(others=['there are two dogs'])
    one.set_metainfo({'other_phrases': ['two dogs']})
    prompt, words = read(one, text, per_phrase=True)
    assert prompt.text == 'red star. cup (blue). two dogs'
    assert words == ['cup (blue)', 'red star', 'cup (blue)']
    assert text([prompt], per_phrase=True).phrases[0][0]


def test_captions_and_class_names_in_one_batch(text):
    found = training_prompts([named(1), sample()], Vocabulary(('dog', 'cat')), PromptRules(), text)
    assert [one.prompt.text for one in found] == ['dog. cat', CAPTION + '.']
    assert [one.rows.tolist() for one in found] == [[1], [1, 0, 1]]
    assert [one.classes for one in found] == [(0, 1), None]


def test_class_names_need_a_vocabulary(text):
    with pytest.raises(InputError, match='no vocabulary is set'):
        training_prompts([named(1), sample()], None, PromptRules(), text)


@pytest.mark.parametrize('rules', [{}, {'per_phrase': True}, {'per_phrase': True, 'last_token': True}])
def test_a_batch_of_both_trains(glip, batch, rules):
    model = glip(prompts=rules).train()
    model.set_vocabulary(Vocabulary(('dog', 'cat')))
    data = batch(([[4, 4, 30, 30]], [0]), ([[4, 4, 30, 30], [30, 30, 60, 62]], [1, 0]), ([], []))
    facts = {'caption': CAPTION, 'phrases': PHRASES, 'other_captions': ['two dogs']}
    data['data_samples'][1].set_metainfo(facts)
    data['data_samples'][2].set_metainfo({**facts, 'phrases': ()})
    found = model.data_preprocessor(data, True)
    losses = model(found['inputs'], found['data_samples'], mode='loss')
    sum(losses.values()).backward()
    assert all(torch.isfinite(one) for one in losses.values())
