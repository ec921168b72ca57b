"""Answers to questions about images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from clipdense.layers.precision import Precision
from clipdense.tasks.answering import Answer, AnswerModel, AnswerRules, checked_questions
from clipdense.utils.errors import InputError
from clipdense.utils.image_open import MAX_PIXELS

from .load import load
from .reading import ImageSource, OnError
from .text_predictor import TextPredictor, checked_model

_PARTS, _DOES = ('answer', 'check_answers'), 'answer questions about images'


class Answerer(TextPredictor):
    """A model that answers questions about images.

    It is thread-safe: calls on one model run one after another.

    Args:
        model: a model that answers questions, such as a BLIP; it is set to evaluation mode.
        rules: how answers are found.
        precision: 'auto', 'fp32' or 'bf16', see ``Predictor``.

    Raises:
        InputError: a model that does not answer questions, or rules that it cannot follow.

    Example:
        >>> answerer = Answerer.from_pretrained('Salesforce/blip-vqa-base')
        >>> answerer('street.jpg', 'how many cars are there?').text
    """

    def __init__(
        self, model: AnswerModel, rules: AnswerRules | None = None, precision: Precision = 'auto'
    ) -> None:
        super().__init__(checked_model(model, type(model).__name__, _PARTS, _DOES), precision)
        self.rules = AnswerRules() if rules is None else rules
        if not isinstance(self.rules, AnswerRules):
            raise InputError(f'rules must be AnswerRules(...), got {type(rules).__name__}')
        self.model.check_answers(self.rules)

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path | AnswerModel,
        rules: AnswerRules | None = None,
        *,
        device: str | torch.device | None = None,
        precision: Precision = 'auto',
        **overrides: Any,
    ) -> Answerer:
        """An answerer from weights.

        Args:
            weights: as ``clipdense.load`` takes them, or a model.
            rules, precision: see the class.
            device: device of the model; None means the GPU if there is one.
            overrides: as in ``clipdense.load``.

        Raises:
            InputError: weights of another kind of model, or as ``clipdense.load``.
        """
        model: Any = weights
        if isinstance(weights, str | Path):
            model = checked_model(load(weights, device, **overrides), weights, _PARTS, _DOES)
        return cls(model, rules, precision)

    def __call__(self, image: ImageSource | list[ImageSource], questions: str | Sequence[str]) -> Any:
        """Answer one question or several about one image, or about each image of a list.

        Args:
            image: a path, a PIL image, or an array (H, W, 3) of RGB; or a list of these.
            questions: a text, or a list of texts.

        Returns:
            An ``Answer``, or a list of them for a list of questions; for a list of images a list of these.

        Raises:
            InputError: an unreadable image, or an empty question.
        """
        images = image if isinstance(image, list) else [image]
        answers = [answer for _, answer in self.stream(images, questions)]
        return answers if isinstance(image, list) else answers[0]

    def stream(
        self,
        images: Iterable[ImageSource],
        questions: str | Sequence[str],
        *,
        batch_size: int | Literal['auto'] = 'auto',
        on_error: OnError = 'raise',
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[tuple[int, Any]]:
        """Answer questions about many images, reading one batch at a time.

        Args:
            images: as ``Captioner.stream``.
            questions: that are asked of each image.
            batch_size: images per batch; 'auto' is 4 on a CPU and 16 on a GPU.  Answers do not depend on it.
            on_error: action if an image cannot be read: 'raise', 'skip', or a function of the index and the
                error.
            max_pixels: images with more pixels are not read.

        Yields:
            The index of an image in ``images``, and its ``Answer``; a list of them for a list of questions.

        Raises:
            InputError: an invalid setting, an empty question, or an unreadable image.
        """
        asked, single = checked_questions(questions), isinstance(questions, str)

        def answer(pixels: Tensor, numbers: list[int]) -> list[Any]:
            found: list[list[Answer]] = self.model.answer(pixels, asked, self.rules)
            return [answers[0] for answers in found] if single else found

        return self._describe(images, answer, batch_size, on_error, max_pixels)
