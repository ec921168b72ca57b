"""Answers to questions about images (visual question answering).

B: images, Q: questions of each, K: answers, L: tokens, S: tokens of an image, W and C: widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipdense.tasks.answering import Answer, AnswerRules
from clipdense.tasks.captioning import CaptionRules
from clipdense.tasks.generation import check_room, generate
from clipdense.utils.errors import InputError

from .losses import answer_losses, lm_labels
from .text import Context
from .tokenizer import Tokens, clean_question

if TYPE_CHECKING:
    from .model import Blip

LONGEST_QUESTION = 35  # tokens, as in the release
SMOOTHING = 0.1  # of labels, in training and where choices are compared


def read_questions(model: Blip, tokens: Tensor, questions: Tokens) -> Context:
    """What the decoder reads of the questions, without their padding.

    Args:
        model: whose decoder reads questions.
        tokens: (B, S, W), of ``model.encode_image``.
        questions: B Q texts that start with ``ids.enc``, those of an image one after another.
    """
    encoder, decoder = model.need_encoder(), model.need_decoder()
    states = encoder(*questions, encoder.read(tokens))  # (B Q, L, C)
    return decoder.read(states, questions.keep)


def answer_loss(
    model: Blip,
    tokens: Tensor,
    questions: Tokens,
    answers: Tokens,
    weights: Tensor,
    smoothing: float = SMOOTHING,
) -> Tensor:
    """The loss of fine-tuning: the weighted sum of the losses of all answers, over the number of images.

    Args:
        model: whose decoder reads questions.
        tokens: (B, S, W), of ``model.encode_image``.
        questions: B texts that start with ``ids.enc``.
        answers: texts that start with ``ids.dec``.
        weights: (B, K) of the answers of each question, such as the share of the people who gave it; 0 where
            a question has fewer than K.  ``answers`` has a text for each weight that is not 0, row by row.
        smoothing: part of the target of each token that is spread over all ids.

    Raises:
        InputError: another number of weights than of questions and answers.

    Source: salesforce/BLIP models/blip_vqa.py, where the padding of questions is masked here too.
    """
    rows = weights.nonzero()[:, 0]  # (K',), the question of each answer
    if len(weights) != len(questions.ids) or len(rows) != len(answers.ids):
        raise InputError(
            f'weights {tuple(weights.shape)} have {len(rows)} values that are not 0, for '
            f'{len(questions.ids)} questions and {len(answers.ids)} answers'
        )
    context = read_questions(model, tokens, questions).row(rows)
    losses = _losses(model, context, answers, smoothing)  # (K',)
    return (weights[weights != 0] * losses).sum() / len(tokens)


@torch.no_grad()
def answer_all(
    model: Blip, images: Tensor, questions: Sequence[str], rules: AnswerRules
) -> list[list[Answer]]:
    """See ``tasks.answering.AnswerModel.answer``."""
    asked, count = _asked(model, questions), len(images)
    every = Tokens(*(part.to(images.device).repeat(count, 1) for part in asked))  # (B Q, L)
    found = iter(_answers(model, images, every, rules))
    return [[Answer(*next(found), question) for question in questions] for _ in range(count)]


@torch.no_grad()
def answer_each(model: Blip, images: Tensor, questions: Sequence[str], rules: AnswerRules) -> list[Answer]:
    """See ``tasks.answering.AnswerModel.answer_each``."""
    if len(images) != len(questions):
        raise InputError(f'{len(questions)} questions for {len(images)} images: each image needs its own')
    asked = Tokens(*(part.to(images.device) for part in _asked(model, questions)))  # (B, L)
    found = _answers(model, images, asked, rules)
    return [Answer(*one, question) for one, question in zip(found, questions, strict=True)]


def _asked(model: Blip, questions: Sequence[str]) -> Tokens:
    cleaned = [_clean(question, place) for place, question in enumerate(questions)]
    return model.tokenizer(cleaned, 'enc', LONGEST_QUESTION)


def _answers(model: Blip, images: Tensor, asked: Tokens, rules: AnswerRules) -> list[tuple[str, float]]:
    """An answer to each of B Q questions (B Q, L), those of an image one after another."""
    context = read_questions(model, model.encode_image(images), asked)
    find = _chosen if rules.choices else _generated
    return find(model, context, len(asked.ids), rules)


def _clean(question: str, place: int) -> str:
    cleaned = clean_question(question)
    if not cleaned:
        raise InputError(f'question {place + 1} ({question!r:.80}) has no words')
    return cleaned


def check_answers(model: Blip, rules: AnswerRules) -> None:
    """See ``tasks.answering.AnswerModel``."""
    if not model.size.answers:
        raise InputError(
            'these BLIP weights do not answer questions: use weights for question answering, such as '
            "'Salesforce/blip-vqa-base'"
        )
    check_room(model.need_decoder(), 1, _as_captions(rules))


def _as_captions(rules: AnswerRules) -> CaptionRules:
    return CaptionRules('beam', '', rules.beams, rules.max_length, rules.min_length)


def _generated(model: Blip, context: Context, count: int, rules: AnswerRules) -> list[tuple[str, float]]:
    start = torch.full((count, 1), model.text_size.ids.dec, device=context.layers[0][0].device)
    ids, scores = generate(model.need_decoder(), context, start, _as_captions(rules))
    texts = [model.tokenizer.decode(row) for row in ids[:, 1:].tolist()]
    return list(zip(texts, scores.tolist(), strict=True))


def _chosen(model: Blip, context: Context, count: int, rules: AnswerRules) -> list[tuple[str, float]]:
    """The best choice of each question and its score."""
    device = context.layers[0][0].device
    choices = Tokens(*(part.to(device) for part in model.tokenizer(rules.choices, 'dec')))  # (K, L)
    order, scores = rank_answers(model, context, count, choices, rules.candidates)
    best = zip(order[:, 0].tolist(), scores[:, 0].tolist(), strict=True)
    return [(rules.choices[place], score) for place, score in best]


def rank_answers(
    model: Blip, context: Context, count: int, choices: Tokens, candidates: int = 128
) -> tuple[Tensor, Tensor]:
    """The choices by how well they answer each question.

    Those with the most probable first id are compared by the sum of the losses of their ids, with the label
    smoothing of the training and without regard to their length, as in the release.

    Args:
        model: whose decoder reads questions.
        context: of ``read_questions``.
        count: B, number of questions.
        choices: (K, L), texts that start with ``ids.dec``.
        candidates: k; at most K are compared.

    Returns:
        Indices of choices (B, k), the best first, and their scores (B, k), the negative losses.

    Source: salesforce/BLIP models/blip_vqa.py ``rank_answer``.
    """
    start = choices.ids[:1, :1].expand(count, 1)  # (B, 1)
    first = model.predict(context, start)[:, 0].float().log_softmax(dim=-1)  # (B, V)
    compared = first[:, choices.ids[:, 1]].topk(min(candidates, len(choices.ids)), dim=1).indices  # (B, k)
    places = torch.arange(count, device=start.device)
    found = []
    for place in places:  # the scores of all ids of all candidates are large
        some = Tokens(*(part[compared[place]] for part in choices))
        found.append(-_losses(model, context.row(place[None]), some))
    scores, order = torch.stack(found).sort(dim=1, descending=True, stable=True)
    return compared.gather(1, order), scores


def _losses(model: Blip, context: Context, answers: Tokens, smoothing: float = SMOOTHING) -> Tensor:
    """(K, L) -> (K,)."""
    scores = model.predict(context, *answers)  # (K, L, V)
    return answer_losses(scores, lm_labels(answers.ids, answers.keep), smoothing)
