"""Captions of images, written by a ``GLIPv2`` with the objective ``captions``: its text is causal.

A token reads itself, the tokens before it, and the image in each block of the head.  The image reads no text,
or a later token would reach earlier ones through it; so it is encoded once for all tokens and all beams.

B: images, R: texts, T: tokens, D: text width, W: words of the tokenizer, S: side of an image.

Zhang et al., GLIPv2 (arXiv 2206.05836), section 3.3.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clipdense.evaluation import captioning
from clipdense.evaluation.own_data import OwnData
from clipdense.tasks.captioning import Caption, CaptionRules
from clipdense.tasks.generation import Cache, DecoderIds, check_room, generate
from clipdense.utils.errors import InputError

from ..head import GLIPHead
from ..structures import ReadPlaces
from ..text import GroundingText
from .whole_images import square_levels
from .word_head import NOT_ASKED, WordHead

if TYPE_CHECKING:
    from .detector import GLIPv2

_BEFORE_SIGN = re.compile(r"\s+([.,;:!?)%]|'(?=\w))")  # tokenizers write a space after each word
NO_CAPTIONS = (
    'these GLIP weights do not describe images: use those of a GLIPv2 that was trained with '
    'objectives=dict(captions=dict())'
)


class CaptionHead(WordHead):
    """Fused features of the tokens of a caption -> logits of the next words.

    Args:
        width, vocab_size: see ``WordHead``.
        image_size: side of the images of captions, which are resized to a square, in pixels.
        prompt: stands before each caption and is not learned; that of ``CaptionRules`` afterwards.

    Raises:
        InputError: a size that is not a whole number of at least 1, or a prompt that is not a text.
    """

    def __init__(
        self, width: int, vocab_size: int, image_size: int = 480, prompt: str = 'a picture of '
    ) -> None:
        super().__init__(width, vocab_size)
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
            raise InputError(
                f'image_size of the captions must be a whole number, at least 1, got {image_size!r}'
            )
        if not isinstance(prompt, str):
            raise InputError(f'prompt of the captions must be a text, got {prompt!r:.80}')
        self.image_size, self.prompt = image_size, prompt
        self.cut = False  # whether a caption that was too long has been reported


class LearnedCaption(NamedTuple):
    """A caption as it is learned."""

    ids: list[int]  # without the last one
    targets: list[int]  # the next id of each, ``NOT_ASKED`` in the prompt


class CaptionDecoder:
    """The parts of a ``GLIPv2`` that write captions, as a ``tasks.generation.TextDecoder``.

    Args:
        text: the text tower.
        head: of the detector.
        words: the objective.
    """

    def __init__(self, text: GroundingText, head: GLIPHead, words: CaptionHead) -> None:
        self.text, self.head, self.words = text, head, words

    @property
    def ids(self) -> DecoderIds:
        """See ``TextDecoder``; texts are filled with their end, since padding may be a word (CLIP's is)."""
        size, (_, end) = self.text.text.size, self.text.ends
        return DecoderIds(size.vocab_size, size.context_length, end, end)

    def read(self, levels: Sequence[Tensor]) -> ReadPlaces:
        """The levels of B images -> what texts read of them."""
        return self.head.places(levels)

    def step(self, ids: Tensor, context: ReadPlaces, past: Cache | None = None) -> tuple[Tensor, Cache]:
        """See ``TextDecoder``: the cache has that of the text tower, then that of each block of the head."""
        depth = len(context.blocks)
        towers: Any = past and past[:-depth]
        blocks: Any = past and past[-depth:]
        hidden, of_tower = self.text.text.step(ids, towers)  # (R, T, D)
        hidden, of_head = self.head.step(hidden, context, blocks)
        return hidden, [*of_tower, *of_head]

    def scores(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., W)."""
        return self.words.logits(states)

    def start(self, prompt: str) -> list[int]:
        """The ids of a prompt, which a caption continues."""
        return [*self.text.ends[0], *self.text.encode_words(prompt)]

    def learned(self, caption: str) -> LearnedCaption:
        """A caption after the prompt.  One that does not fit is cut, and then has no end.

        Raises:
            InputError: a prompt that leaves no room.

        Warns:
            UserWarning: the first caption that is cut.
        """
        before, (first, end) = self.start(self.words.prompt), self.text.ends
        most = self.text.room + len(first)
        if len(before) >= most:
            raise InputError(
                f'objectives.captions.prompt {self.words.prompt!r:.40} has {len(before) - len(first)} tokens '
                f'and {self.text.room} fit with a caption: shorten it'
            )
        words = self.text.encode_words(caption)
        whole = [*before, *words, end]
        if len(before) + len(words) > most:
            if not self.words.cut:
                warnings.warn(
                    f'the caption {caption!r:.40} has {len(words)} tokens, and {most - len(before)} fit: its '
                    'end is left out, as that of all others that are too long'
                )
            self.words.cut = True
            whole = whole[:most]
        targets = [NOT_ASKED] * (len(before) - 1) + whole[len(before) :]
        return LearnedCaption(whole[:-1], targets)

    def loss(self, levels: Sequence[Tensor], captions: Sequence[str]) -> Tensor:
        """The mean cross-entropy of the words of captions and of their ends, each from what is before it.

        Args:
            levels: of B images.
            captions: of each; without one the loss is 0.
        """
        device = levels[0].device
        if not captions:
            nothing = levels[0].new_zeros(0, 1, self.text.width)
            return self.words(nothing, torch.zeros(0, 1, dtype=torch.int64, device=device))
        learned = [self.learned(one) for one in captions]
        ids = _padded([one.ids for one in learned], self.ids.pad, device)  # (B, T)
        states, _ = self.step(ids, self.read(levels))
        return self.words(states, _padded([one.targets for one in learned], NOT_ASKED, device))

    def words_of(self, ids: Sequence[int]) -> str:
        """The text of generated ids, up to the first end."""
        before, end = self.text.ends
        ids = list(ids)
        ids = ids[: ids.index(end)] if end in ids else ids
        text = self.text.decode_words([one for one in ids if one not in before])
        return _BEFORE_SIGN.sub(r'\1', text.strip())


def describe(
    model: GLIPv2, images: Tensor, rules: CaptionRules, numbers: Sequence[int] = ()
) -> list[Caption]:
    """See ``tasks.captioning.CaptionModel.caption``."""
    decoder = decoder_of(model)
    start = decoder.start(rules.prompt)
    prompt = torch.tensor([start] * len(images), device=images.device)  # (B, T)
    ids, scores = generate(decoder, decoder.read(square_levels(model, images)), prompt, rules, numbers)
    texts = [decoder.words_of(row) for row in ids[:, len(start) :].tolist()]
    return [Caption(text, score) for text, score in zip(texts, scores.tolist(), strict=True)]


def check_captions(model: GLIPv2, rules: CaptionRules) -> None:
    """See ``tasks.captioning.CaptionModel.check_captions``.

    Warns:
        UserWarning: another prompt than that of the training, which it does not begin with either.
    """
    decoder = decoder_of(model)
    check_room(decoder, len(decoder.start(rules.prompt)), rules)
    trained = decoder.words.prompt
    if not rules.prompt.strip().startswith(trained.strip()):
        warnings.warn(
            f'these weights learned captions after the prompt {trained!r:.60}, not after {rules.prompt!r:.60}'
        )


def on_own_data(detector: Any, own: OwnData) -> dict[str, float]:
    """Metrics of ``CaptionQuality`` of a detector that describes images."""
    model = detector.model.model
    if not hasattr(model, 'check_captions'):
        raise InputError(NO_CAPTIONS)
    decoder_of(model)  # before the data is read
    return captioning.on_own_data(model, own)


def decoder_of(model: GLIPv2) -> CaptionDecoder:
    """What writes captions.

    Raises:
        InputError: a model without the objective.
    """
    if model.captions is None:
        raise InputError(NO_CAPTIONS)
    return CaptionDecoder(model.clip, model.head, model.captions)


def _padded(rows: Sequence[list[int]], value: int, device: torch.device) -> Tensor:
    parts = [torch.tensor(row, device=device) for row in rows]
    return pad_sequence(parts, batch_first=True, padding_value=value)
