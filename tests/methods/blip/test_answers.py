"""Answers to questions, in Python and on the command line."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import clipdense
from clipdense import Answerer, AnswerRules, Captioner
from clipdense.cli.app import main
from clipdense.methods.blip.answers import answer_loss, rank_answers, read_questions
from clipdense.methods.blip.checkpoint import save
from clipdense.methods.blip.tokenizer import BlipTokenizer, Tokens
from clipdense.utils.errors import InputError

from .conftest import IDS, lively_blip, vocabulary_file

PARTS = {'shared': False, 'embed_dim': 0}
QUESTIONS = ['a cat on the dog?', 'word1 word2']
CHOICES = ('cat', 'dog', 'cat on the dog', 'word7 word8', 'word9')


@pytest.fixture
def model(tmp_path):
    found = lively_blip(0.3, **PARTS)
    found.tokenizer = BlipTokenizer(found.text_size, vocabulary_file(tmp_path))
    return found


@pytest.fixture
def answering_file(model, tmp_path):
    save(model, tmp_path / 'answers.safetensors')
    return tmp_path / 'answers.safetensors'


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / 'photos'
    folder.mkdir()
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (20 + index, 30, 3), np.uint8)).save(folder / f'{index}.png')
    return folder


@pytest.mark.parametrize('choices', [(), CHOICES], ids=['generated', 'chosen'])
def test_answers_depend_on_neither_the_batch_nor_on_other_questions(answering_file, photos, choices):
    """A longer question beside it pads a question; its padding must not be read."""
    answerer = Answerer.from_pretrained(answering_file, AnswerRules(choices), device='cpu')
    paths = sorted(photos.iterdir())
    together = answerer(paths, QUESTIONS)
    for path, answers in zip(paths, together, strict=True):
        for question, answer in zip(QUESTIONS, answers, strict=True):
            alone = answerer(path, question)
            assert (alone.text, alone.question) == (answer.text, question)
            assert alone.score == pytest.approx(answer.score, abs=1e-4)
    assert len({round(answer.score, 4) for answers in together for answer in answers}) > 1
    if choices:
        assert {answer.text for answers in together for answer in answers} <= set(choices)


def plain_loss(model, tokens, question, answer, smoothing=0.1):
    """The loss of one answer, id by id."""
    context = model.encoder.read(tokens)
    states = model.encoder(question, None, context)
    scores = model.predict(model.decoder.read(states), answer)[0]
    total = 0.0
    for place in range(answer.shape[1] - 1):
        log = scores[place].log_softmax(dim=-1)
        total -= (1 - smoothing) * log[answer[0, place + 1]] + smoothing * log.mean()
    return total


def unpadded(texts, row):
    return texts.ids[row : row + 1, : int(texts.keep[row].sum())]


@torch.no_grad()
def test_the_loss_of_fine_tuning(model):
    """Two questions of different length, one with two answers: each loss weighted, over the images."""
    tokens = model.encode_image(torch.randn(2, 3, 32, 32))
    questions = model.tokenizer(QUESTIONS, 'enc')
    answers = model.tokenizer(['cat', 'word7 word8 word9', 'dog'], 'dec')
    weights = torch.tensor([[0.7, 0.3], [0.0, 1.0]])
    found = answer_loss(model, tokens, questions, answers, weights)
    pairs = ((0, 0, 0.7), (0, 1, 0.3), (1, 2, 1.0))
    expected = sum(
        weight * plain_loss(model, tokens[at : at + 1], unpadded(questions, at), unpadded(answers, row))
        for at, row, weight in pairs
    )
    assert_close(found, expected / 2, atol=1e-4, rtol=1e-5)
    with pytest.raises(InputError, match='have 2 values that are not 0, for 2 questions and 3 answers'):
        answer_loss(model, tokens, questions, answers, torch.eye(2))


@torch.no_grad()
def test_the_order_of_the_choices(model):
    tokens = model.encode_image(torch.randn(1, 3, 32, 32))
    question = model.tokenizer(QUESTIONS[:1], 'enc')
    choices = model.tokenizer(CHOICES, 'dec')
    order, scores = rank_answers(model, read_questions(model, tokens, question), 1, choices)
    plain = torch.stack([plain_loss(model, tokens, question.ids, unpadded(choices, row)) for row in range(5)])
    assert order[0].tolist() == plain.argsort().tolist()
    assert_close(scores[0], -plain.sort().values, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_few_candidates_are_those_with_the_most_probable_first_id(model):
    tokens = model.encode_image(torch.randn(1, 3, 32, 32))
    context = read_questions(model, tokens, model.tokenizer(QUESTIONS[:1], 'enc'))
    choices = model.tokenizer(CHOICES, 'dec')
    first = model.predict(context, torch.tensor([[IDS.dec]]))[0, 0]
    best = first[choices.ids[:, 1]].topk(2).indices
    order, _ = rank_answers(model, context, 1, choices, candidates=2)
    assert sorted(order[0].tolist()) == sorted(best.tolist())


@torch.no_grad()
def test_the_mask_of_the_question_reaches_the_answer(model):
    """transformers ignores it: with other ids in the padding the answers must stay."""
    tokens = model.encode_image(torch.randn(2, 3, 32, 32))
    ids, keep = model.tokenizer(QUESTIONS, 'enc')
    assert not keep.all()
    answers = torch.tensor([[IDS.dec, 7, 8]] * 2)
    before = model.predict(read_questions(model, tokens, Tokens(ids, keep)), answers)
    after = model.predict(read_questions(model, tokens, Tokens(torch.where(keep > 0, ids, 9), keep)), answers)
    assert_close(before, after)


def test_weights_that_do_not_answer(tiny, answering_file):
    for parts in ({}, {'decoder': False}, {'encoder': False, 'embed_dim': 0}):
        with pytest.raises(InputError, match='do not answer questions: use weights for question answering'):
            Answerer(tiny(**parts))
    with pytest.raises(InputError, match=r'answer questions \(`clipdense answer`\)'):
        Captioner.from_pretrained(answering_file, device='cpu')
    with pytest.raises(InputError, match='cannot answer questions about images'):
        Answerer(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match='rules must be AnswerRules'):
        Answerer(tiny(**PARTS), {'beams': 3})


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'choices': 'yes, no'}, "choices must be a list of texts, got 'yes, no'"),
        ({'choices': ['yes']}, r"at least 2 choices, got one \('yes'\)"),
        ({'choices': ['yes', 'no', 'yes']}, r"choice 3 \('yes'\) occurs twice"),
        ({'choices': ['yes', ' ']}, 'choice 2 is empty'),
        ({'choices': ['yes', 3]}, 'choice 2 must be a text, got 3'),
        ({'beams': 0}, 'beams must be a whole number of at least 1, got 0'),
        ({'candidates': 1.5}, 'candidates must be a whole number'),
        ({'min_length': 20}, 'min_length=20 is more than max_length=10'),
    ],
)
def test_wrong_rules(settings, message):
    with pytest.raises(InputError, match=message):
        AnswerRules(**settings)


@pytest.mark.parametrize(
    ('questions', 'message'),
    [
        ('', 'question 1 is empty'),
        ([], 'questions must be a text'),
        (['a', None], 'question 2 must be a text'),
    ],
)
def test_wrong_questions(model, questions, message):
    with pytest.raises(InputError, match=message):
        Answerer(model)(np.zeros((9, 9, 3), np.uint8), questions)


def test_a_question_that_is_too_long(model):
    with pytest.warns(UserWarning, match='is longer than 35 tokens and was truncated'):
        Answerer(model)(np.zeros((9, 9, 3), np.uint8), 'cat ' * 40)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(['answer', *map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize('ending', ['csv', 'json', 'txt'])
def test_the_command(capsys, answering_file, photos, tmp_path, ending):
    out, paths = tmp_path / f'answers.{ending}', sorted(photos.iterdir())
    asked = [part for question in QUESTIONS for part in ('-q', question)]
    status, printed, err = run(capsys, photos, *asked, '-w', answering_file, '--out', out, '--device', 'cpu')
    assert status == 0, err
    expected = [
        (str(path), one.question, one.text)
        for path, answers in zip(
            paths, Answerer.from_pretrained(answering_file, device='cpu')(paths, QUESTIONS), strict=True
        )
        for one in answers
    ]
    assert len(printed.splitlines()) == 6
    if ending == 'txt':
        assert out.read_text().splitlines() == [text for _, _, text in expected]
        return
    with out.open() as file:
        rows = json.load(file) if ending == 'json' else list(csv.DictReader(file))
    assert [(row['image'], row['question'], row['answer']) for row in rows] == expected


def test_choices_of_the_command(capsys, answering_file, photos, tmp_path):
    (tmp_path / 'choices.txt').write_text('cat\ndog\n\n', 'utf-8')
    given = (photos / '0.png', '-q', 'a cat?', '-w', answering_file, '--device', 'cpu')
    _, one, _ = run(capsys, *given, '--choices', 'cat, dog')
    _, other, _ = run(capsys, *given, '--choice-file', tmp_path / 'choices.txt')
    assert one == other
    assert one.strip().rpartition(': ')[2] in ('cat', 'dog')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--choices', 'yes'), "at least 2 choices, got one ('yes')"),
        (('--choices', ''), '--choices has no choices'),
        (('--choices', 'a, b', '--choice-file', 'x.txt'), 'cannot be combined'),
        (('--choice-file', 'missing.txt'), 'missing.txt'),
        (('--max-length', '99'), 'max_length=99 is more than the 40 positions'),
        (('--question', ' '), 'question 2 is empty'),
        (('--out', 'a.doc'), 'answers are written as .csv'),
    ],
)
def test_wrong_calls(capsys, answering_file, photos, arguments, message):
    status, _, err = run(capsys, photos, '-q', 'a cat?', '-w', answering_file, *arguments)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_public_names():
    assert clipdense.Answerer is Answerer
    assert clipdense.AnswerRules is AnswerRules
