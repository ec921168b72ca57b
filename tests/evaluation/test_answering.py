"""The accuracy of VQA: how answers are compared, and what an evaluation reports."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clipdense.clip.preprocess import Preprocess
from clipdense.data.image_text.questions import Question
from clipdense.evaluation.answering import AnswerAccuracy, normalize_answer, vqa_accuracy
from clipdense.tasks.answering import Answer, AnswerRules
from clipdense.utils.errors import InputError


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('The Dog', 'dog'),
        (' a  cat\n', 'cat'),
        ('two', '2'),
        ('None', '0'),
        ('dont know', "don't know"),
        ("couldn'tve", "couldn't've"),
        ('yall', "y'all"),
        ('ma am', 'ma am'),
        ('red/blue', 'red blue'),  # inside of a word: a space
        ('red / blue', 'red blue'),
        ('red, blue', 'red blue'),
        ('tennis-racket', 'tennis racket'),
        ('1,000', '1000'),
        ('3.5', '3.5'),
        ('yes.', 'yes'),
        ('p.m.', 'pm'),
        ('what?', 'what'),
        ('(left)', 'left'),
        ('', ''),
        ('the', ''),
    ],
)
def test_answers_are_normalized(text, expected):
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ('answer', 'given', 'expected'),
    [
        ('dog', ['dog'] * 10, 1.0),
        ('Dog.', ['a dog'] * 4 + ['cat'] * 6, 1.0),
        ('dog', ['dog'] * 3 + ['cat'] * 7, (7 * 1 + 3 * 2 / 3) / 10),
        ('dog', ['dog'] * 2 + ['cat'] * 8, (8 * 2 / 3 + 2 * 1 / 3) / 10),
        ('dog', ['dog'] + ['cat'] * 9, 9 / 3 / 10),
        ('bird', ['dog'] * 10, 0.0),
        ('dog', ['a dog'], 1.0),
        ('dog', ['cat'], 0.0),
        ('dog', ['dog', 'dog'], 1.0),
        ('dog', ['dog', 'cat'], 0.5),
        ('dog', ['dog', 'dog', 'dog'], 1.0),
    ],
)
def test_accuracy_of_an_answer(answer, given, expected):
    """By hand: the mean over leaving out each person of min(n / 3, 1)."""
    assert vqa_accuracy(answer, given) == pytest.approx(expected)


class Data:
    """Questions whose image has the value of the index; the last image may be unreadable."""

    def __init__(self, questions, unreadable=False):
        self.questions, self.unreadable = questions, unreadable

    def __len__(self):
        return len(self.questions)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError
        item = {'images': torch.full((3, 8, 8), index, dtype=torch.uint8)}
        if self.unreadable:
            item['index'] = -1 if index == len(self) - 1 else index
        return item

    def question(self, index):
        return self.questions[index]


class Oracle(nn.Module):
    """Answers by the value of the image, as it was given."""

    preprocess = Preprocess(8, mean=(0, 0, 0), std=(1, 1, 1))

    def __init__(self, answers):
        super().__init__()
        self.answers, self.rules, self.batches = answers, None, []
        self.weight = nn.Parameter(torch.zeros(1))

    def check_answers(self, rules):
        self.rules = rules

    def answer_each(self, images, questions, rules):
        assert not self.training
        self.batches.append(len(images))
        places = (images[:, 0, 0, 0] * 255).round().int().tolist()
        return [
            Answer(self.answers[place], -1.0, text) for place, text in zip(places, questions, strict=True)
        ]


QUESTIONS = [
    Question('is it?', ('yes',), kind='yes/no'),
    Question('is it not?', ('no',), kind='yes/no'),
    Question('was it?', ('yes',), kind='yes/no'),
    Question('what?', ('a dog',), kind='other'),
    Question('who?', ('a cat',), kind='other'),
]


def test_an_evaluation():
    model = Oracle(['yes', 'yes', 'no', 'dog', 'the cat']).train()
    found = AnswerAccuracy(Data(QUESTIONS), batch_size=2, name='vqa')(model)
    assert model.training
    assert model.batches == [2, 2, 1]
    assert found == pytest.approx(
        {
            'vqa/accuracy': 3 / 5,
            'vqa/accuracy/yes_no': 1 / 3,
            'vqa/accuracy/other': 1,
            'vqa/most_frequent': 3 / 5,
            'vqa/questions': 5,
        }
    )


def test_unreadable_images_are_left_out():
    found = AnswerAccuracy(Data(QUESTIONS[:2], unreadable=True))(Oracle(['yes', 'no']))
    assert (found['answers/accuracy'], found['answers/questions'], found['answers/unreadable']) == (1, 1, 1)
    with pytest.raises(InputError, match='no images that can be read'):
        AnswerAccuracy(Data(QUESTIONS[:1], unreadable=True))(Oracle(['yes']))


def test_ranking_is_among_the_answers_of_the_dataset():
    evaluation = AnswerAccuracy(Data(QUESTIONS), by='ranking', most_choices=3, rules={'candidates': 2})
    model = Oracle(['yes'] * 5)
    evaluation.check(model)
    assert model.rules.choices == ('yes', 'no', 'a dog')
    assert model.rules.candidates == 2
    own = AnswerAccuracy(Data(QUESTIONS), by='ranking', rules=AnswerRules(choices=['yes', 'no']))
    assert own.rules.choices == ('yes', 'no')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'by': 'rank'}, "by must be one of generation, ranking, got 'rank'. Did you mean 'ranking'"),
        ({'rules': {'choices': ['a', 'b']}}, "choices are for by='ranking'"),
        ({'dataset': []}, r'has no question\(index\)'),
        ({'dataset': Data(QUESTIONS[:1]), 'by': 'ranking'}, 'at least 2 choices'),
    ],
)
def test_evaluations_that_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        AnswerAccuracy(**{'dataset': Data(QUESTIONS), **options})


def test_a_model_that_does_not_answer():
    with pytest.raises(InputError, match='Linear does not answer questions'):
        AnswerAccuracy(Data(QUESTIONS)).check(nn.Linear(2, 2))
