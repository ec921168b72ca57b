"""Answers to questions about images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from torch import Tensor

from clipdense.layers.precision import Precision
from clipdense.tasks.answering import Answer, AnswerModel, AnswerRules, checked_questions
from clipdense.utils.image_open import MAX_PIXELS

from .reading import ImageSource, OnError
from .text_predictor import TextPredictor


class Answerer(TextPredictor[AnswerRules]):
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

    _needs, _does, _rules = ('answer', 'check_answers'), 'answer questions about images', AnswerRules
    _writes = 'answers'

    def __init__(
        self, model: AnswerModel, rules: AnswerRules | None = None, precision: Precision = 'auto'
    ) -> None:
        super().__init__(model, rules, precision)
        self.model.check_answers(self.rules)

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
