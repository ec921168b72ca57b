"""Question answering as classification: the fused text of a question -> one of the known answers (GLIPv2).

B: questions, T: tokens, D: text width, K: answers.

Zhang et al., GLIPv2 (arXiv 2206.05836), appendix; Teney et al. (arXiv 1708.02711), soft targets.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32
from clipdense.utils.errors import InputError
from clipdense.vocab.class_files import lines_of, read_text

_BATCHES = 50  # without a known answer, before a warning
_NAMED = 5  # answers in a message


class AnswerHead(nn.Module):
    """The mean feature of the tokens of a question, after they have read the image -> logits of answers.

    Args:
        text_width: D.
        answers: all answers that there are, or a text file with one in each line.  Case and repeated spaces
            make no difference.
        image_size: side of the images of questions, which are resized to a square, in pixels.
        width: of the hidden layer; 2 D by default.

    Raises:
        InputError: fewer than two answers, one that is empty, no text or occurs twice, or a number that is
            not at least 1.
    """

    def __init__(
        self,
        text_width: int,
        answers: Sequence[str] | str | Path,
        image_size: int = 480,
        width: int | None = None,
    ) -> None:
        super().__init__()
        width = 2 * text_width if width is None else width
        for name, value in (('width', width), ('image_size', image_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f'{name} of the answers must be a whole number, at least 1, got {value!r}')
        self.answers, self.image_size = _checked(answers), image_size
        self.places = {_plain(answer): place for place, answer in enumerate(self.answers)}
        self.fc, self.norm = nn.Linear(text_width, width), nn.LayerNorm(width)
        self.out = nn.Linear(width, len(self.answers))
        self._without_known = 0  # batches so far

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) after the blocks of the head, (B, T) False for padding -> logits (B, K)."""
        shares = mask.to(text) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        pooled = torch.einsum('bt,btd->bd', shares, text)
        return at_least_fp32(self.out(self.norm(F.gelu(self.fc(pooled)))))

    def loss(self, text: Tensor, mask: Tensor, given: Sequence[Mapping[str, float]]) -> Tensor:
        """Binary cross-entropy, the sum over all answers, the mean over questions with a known answer.

        Args:
            text, mask: as in ``forward``.
            given: answers of people to each question, and their weights, such as shares of these people.

        Warns:
            UserWarning: the first batches have no known answer.
        """
        targets = text.new_zeros(len(given), len(self.answers), dtype=torch.float32)
        for row, answers in enumerate(given):
            for answer, weight in answers.items():
                place = self.places.get(_plain(answer))
                if place is not None:
                    targets[row, place] += weight
        known = (targets > 0).any(dim=1)
        self._warn_of_unknown(given, known)
        logits = self(text[known], mask[known])
        total = F.binary_cross_entropy_with_logits(logits, targets[known].clamp(max=1.0), reduction='sum')
        return total / known.sum().clamp(min=1)

    def check_choices(self, choices: Sequence[str]) -> None:
        """Refuse answers that are not known.

        Raises:
            InputError: naming some of them.
        """
        unknown = [choice for choice in choices if _plain(choice) not in self.places]
        if unknown:
            shown = ', '.join(f'{one!r:.40}' for one in unknown[:_NAMED])
            raise InputError(
                f'{len(unknown)} of {len(choices)} choices are none of the {len(self.answers)} answers that '
                f'these weights know: {shown}{", ..." if len(unknown) > _NAMED else ""}; choose from others'
            )

    def best(self, logits: Tensor, choices: Sequence[str] = ()) -> list[tuple[str, float]]:
        """The best answer of each question and the logarithm of its probability.

        Args:
            logits: (B, K).
            choices: the answers to choose from; all by default.
        """
        names = choices or self.answers
        places = [self.places[_plain(name)] for name in names]
        scores, index = F.logsigmoid(logits[:, places]).max(dim=1)
        return [(names[place], score) for place, score in zip(index.tolist(), scores.tolist(), strict=True)]

    def _warn_of_unknown(self, given: Sequence[Mapping[str, float]], known: Tensor) -> None:
        if bool(known.any()):
            self._without_known = -1
        elif self._without_known >= 0 and given:
            self._without_known += 1
            if self._without_known == _BATCHES:
                warnings.warn(
                    f'no question of the first {_BATCHES} batches with questions has an answer that is among '
                    f'objectives.answers.answers, the last one {next(iter(given[-1]), "")!r:.40}: nothing is '
                    'learned of them'
                )


def _checked(answers: Any) -> tuple[str, ...]:
    source = 'objectives.answers.answers'
    if isinstance(answers, str | Path):
        source = str(answers)
        answers = [line.strip() for line in lines_of(read_text(answers)) if line.strip()]
    if not isinstance(answers, Sequence):
        raise InputError(f'{source} must be a list of texts or a text file, got {answers!r:.80}')
    if len(answers) < 2:
        raise InputError(f'{source} needs at least 2 answers, got {len(answers)}')
    first: dict[str, int] = {}
    for place, answer in enumerate(answers):
        if not isinstance(answer, str) or not answer.strip():
            raise InputError(f'{source}: answer {place + 1} must be a text with words, got {answer!r:.80}')
        other = first.setdefault(_plain(answer), place)
        if other != place:
            raise InputError(
                f'{source}: answer {place + 1} ({answer!r:.40}) is the same as answer {other + 1} '
                f'({answers[other]!r:.40}): remove one'
            )
    return tuple(answers)


def _plain(answer: str) -> str:
    """What makes an answer another one."""
    return ' '.join(answer.lower().split())
