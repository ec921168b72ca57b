"""Questions about images with answers of several people; ``question_files`` reads them.

N: questions, K: answers of a question, L: tokens of a question, A: tokens of an answer.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch

from clipdense.data.batches import sample_rng
from clipdense.registry import TRANSFORMS, build

from .datasets import ImageTextPairs, PackedStrings


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Args:
        text: the question.
        answers: of several people; equal ones are repeated.
        weights: of each answer in training; by default each person has the same share of 1.
        kind: of the question or its answer, such as 'yes/no'; scores are also given by kind.
    """

    text: str
    answers: tuple[str, ...]
    weights: tuple[float, ...] = ()
    kind: str = ''

    @property
    def targets(self) -> dict[str, float]:
        """Each different answer and its weight."""
        weights = self.weights or [1 / len(self.answers)] * len(self.answers)
        found: dict[str, float] = {}
        for answer, weight in zip(self.answers, weights, strict=True):
            found[answer] = found.get(answer, 0.0) + weight
        return found


def question_items(tokenizer: Any, question: Question) -> dict[str, Any]:
    """``token_ids`` (L,) of a question, ``answer_ids`` (K, A) and ``answer_weights`` (K,); {} without one.

    Args:
        tokenizer: with the method ``question_items``, such as BLIP's ``QuestionIds``; or None.
        question: the question.
    """
    if tokenizer is None:
        return {}
    ids, answers, weights = tokenizer.question_items(question.text, question.targets)
    return {
        'token_ids': torch.from_numpy(np.asarray(ids, np.int64)),
        'answer_ids': torch.from_numpy(np.asarray(answers, np.int64)),
        'answer_weights': torch.from_numpy(np.asarray(weights, np.float32)),
    }


def common_answers(dataset: Any, most: int) -> list[str]:
    """The most frequent answers of a dataset with ``question(index)``."""
    counts = Counter(answer for index in range(len(dataset)) for answer in dataset.question(index).answers)
    return [answer for answer, _ in counts.most_common(most)]


class VisualQuestions(ImageTextPairs):
    """N questions, each with the path of its image.

    Crops depend on (seed, epoch, index) only.  An unreadable image is counted, and replaced by the next
    question whose image is readable; for evaluation see ``unreplaced``.

    Args:
        questions: paths with questions; iterated once.
        transform: image and generator -> (3, S, S) uint8; None returns unchanged images.
        tokenizer: of questions and answers, see ``question_items``; None for evaluation.
        seed, max_bad_fraction: as in ``ImageTextPairs``.
    """

    def __init__(
        self,
        questions: Iterable[tuple[str, Question]],
        transform: Callable | dict | None = None,
        tokenizer: Any = None,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
    ) -> None:
        self._texts_of, self._kinds, self._answers = PackedStrings(), PackedStrings(), PackedStrings()
        self._starts, self._weights = array('q', [0]), array('d')

        def images() -> Iterator[tuple[str, list[str]]]:
            for path, question in questions:
                self._texts_of.append(question.text)
                self._kinds.append(question.kind)
                for place, answer in enumerate(question.answers):
                    self._answers.append(answer)
                    self._weights.append(question.weights[place] if question.weights else math.nan)
                self._starts.append(len(self._answers))
                yield path, []

        super().__init__(images(), transform, None, seed, max_bad_fraction)
        self.tokenizer = build(tokenizer, TRANSFORMS)

    def question(self, index: int) -> Question:
        """The question at ``index``."""
        places = range(self._starts[index], self._starts[index + 1])
        weights = tuple(self._weights[at] for at in places)
        return Question(
            self._texts_of[index],
            tuple(self._answers[at] for at in places),
            () if any(map(math.isnan, weights)) else weights,
            self._kinds[index],
        )

    def _texts(self, index: int) -> tuple[Random, dict[str, Any]]:
        items = question_items(self.tokenizer, self.question(index))
        rng = sample_rng(self.seed, int(self._epoch), index)
        return rng, {'images': None, **items, 'names': self.paths[index]}
