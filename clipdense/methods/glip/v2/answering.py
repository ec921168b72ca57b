"""Answers to questions about images, by a ``GLIPv2`` with the objective ``answers``.

B: images, Q: questions of each, T: tokens, S: side of an image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipdense.evaluation.answering import AnswerAccuracy
from clipdense.evaluation.own_data import OwnData
from clipdense.tasks.answering import Answer, AnswerRules
from clipdense.utils.errors import InputError

from ..class_text import NamedPrompt
from ..prompts import Prompt
from ..structures import TextFeatures
from ..text import GroundingText
from ..training_prompts import TrainingText
from .answer_head import AnswerHead
from .whole_images import square_levels, without_boxes

if TYPE_CHECKING:
    from .detector import GLIPv2

NO_HEAD = (
    'these GLIP weights do not answer questions: use those of a GLIPv2 that was trained with '
    'objectives=dict(answers=dict(answers=[...]))'
)


def training_question(question: str, text: GroundingText) -> TrainingText:
    """A question as the text of its image, without phrases and boxes.

    Warns:
        UserWarning: it does not fit; its end is left out.
    """
    places = text.locate(question)[1]
    if len(places) > text.room:
        warnings.warn(
            f'the question {question!r:.40} has {len(places)} tokens, and {text.room} fit: its end is '
            'left out'
        )
        question = question[: places[text.room - 1][1]]
    return without_boxes(question)


def answer_all(
    model: GLIPv2, images: Tensor, questions: Sequence[str], rules: AnswerRules
) -> list[list[Answer]]:
    """See ``tasks.answering.AnswerModel.answer``: images are encoded once for all questions."""
    levels = square_levels(model, images)
    found = []
    for question in questions:
        text = _texts(model, [question])
        every = TextFeatures(*(part.expand(len(images), *part.shape[1:]) for part in text))
        found.append(_answers(model, levels, every, [question] * len(images), rules))
    return [list(of_image) for of_image in zip(*found, strict=True)]


def answer_each(model: GLIPv2, images: Tensor, questions: Sequence[str], rules: AnswerRules) -> list[Answer]:
    """See ``tasks.answering.AnswerModel.answer_each``."""
    return _answers(model, square_levels(model, images), _texts(model, questions), questions, rules)


def on_own_data(detector: Any, own: OwnData) -> dict[str, float]:
    """Metrics of ``AnswerAccuracy`` of a detector that answers questions."""
    own.without_classes()
    model = detector.model.model
    if not hasattr(model, 'check_answers'):
        raise InputError(NO_HEAD)
    return AnswerAccuracy(own.build())(model)


def need_head(model: GLIPv2) -> AnswerHead:
    """The head.

    Raises:
        InputError: a model without one.
    """
    if model.answers is None:
        raise InputError(NO_HEAD)
    return model.answers


def _texts(model: GLIPv2, questions: Sequence[str]) -> TextFeatures:
    """The questions, padded to the longest."""
    prompts = [NamedPrompt(Prompt(one, ()), ()) for one in questions]
    chunks = model.class_text.encode(prompts)
    return TextFeatures(*map(torch.cat, zip(*(one.features for one in chunks), strict=True)))


def _answers(
    model: GLIPv2,
    levels: Sequence[Tensor],
    text: TextFeatures,
    questions: Sequence[str],
    rules: AnswerRules,
) -> list[Answer]:
    head = need_head(model)
    fused = model.head(levels, text).text
    assert fused is not None
    found = head.best(head(fused, text.mask), rules.choices)
    return [Answer(*one, question) for one, question in zip(found, questions, strict=True)]
