"""Answers to questions about images, by a ``GLIPv2`` with the objective ``answers``.

B: images, Q: questions of each, T: tokens, S: side of an image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.preprocess import Preprocess
from clipdense.data.detection.inference import move_preprocessor
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
    nothing = torch.zeros(0, dtype=torch.int64)
    return TrainingText(Prompt(question, ()), nothing, None, boxed=False)


def answer_preprocess(data_preprocessor: Any, image_size: int) -> Preprocess:
    """What prepares the images of questions: squares, normalized as the detector does it, as RGB."""
    mean, std = [0.0] * 3, [1.0] * 3
    if getattr(data_preprocessor, '_enable_normalize', False):
        mean, std = (getattr(data_preprocessor, name).flatten().tolist() for name in ('mean', 'std'))
        if _swaps(data_preprocessor):
            mean, std = mean[::-1], std[::-1]
    low, wide = ((x[0] / 255, x[1] / 255, x[2] / 255) for x in (mean, std))
    return Preprocess(image_size, low, wide, interpolation='bilinear', resize='squash')


def answer_all(
    model: GLIPv2, images: Tensor, questions: Sequence[str], rules: AnswerRules
) -> list[list[Answer]]:
    """See ``tasks.answering.AnswerModel.answer``: images are encoded once for all questions."""
    levels = _levels(model, images)
    found = []
    for question in questions:
        text = _texts(model, [question])
        every = TextFeatures(*(part.expand(len(images), *part.shape[1:]) for part in text))
        found.append(_answers(model, levels, every, [question] * len(images), rules))
    return [list(of_image) for of_image in zip(*found, strict=True)]


def answer_each(model: GLIPv2, images: Tensor, questions: Sequence[str], rules: AnswerRules) -> list[Answer]:
    """See ``tasks.answering.AnswerModel.answer_each``."""
    return _answers(model, _levels(model, images), _texts(model, questions), questions, rules)


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


def _levels(model: GLIPv2, images: Tensor) -> tuple[Tensor, ...]:
    """The levels of normalized RGB images (B, 3, S, S), which are padded as in training."""
    move_preprocessor(model)
    prepared: Any = model.data_preprocessor
    images = images.flip(1) if _swaps(prepared) else images
    divisor = getattr(prepared, 'pad_size_divisor', 1)
    more = -images.shape[-1] % divisor
    if more:
        images = F.pad(images, (0, more, 0, more), value=getattr(prepared, 'pad_value', 0))
    return model.extract_feat(images)


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


def _swaps(data_preprocessor: Any) -> bool:
    """Whether it changes RGB to BGR."""
    return bool(getattr(data_preprocessor, '_channel_conversion', False))
