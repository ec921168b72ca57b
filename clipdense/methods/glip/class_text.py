"""The class names of a vocabulary as prompts, encoded once.

K: classes, Q: names and synonyms, T: tokens of a prompt, D: text width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.layers.precision import no_autocast
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .prompts import Prompt, PromptRules, chunks, class_prompt, positive_map, warn_of_equal
from .structures import TextFeatures
from .text import GroundingText


class EncodedChunk(NamedTuple):
    """A prompt with some of the names."""

    features: TextFeatures  # of one text
    positive: Tensor  # (names, T)  1 where a token belongs to a name
    class_of: Tensor  # (names,)  class index of each name

    def features_for(self, count: int) -> TextFeatures:
        """The same text for each of so many images."""
        hidden, embedded, mask = (one.expand(count, *one.shape[1:]) for one in self.features)
        return TextFeatures(hidden, embedded, mask)


class ClassText:
    """A ``ClassEmbedder`` that also keeps what the head reads: prompts with the features of their tokens.

    Args:
        text: the text tower.
        rules: how names become prompts.
    """

    uses_templates = False

    def __init__(self, text: GroundingText, rules: PromptRules) -> None:
        self.text, self.rules = text, rules
        self.vocabulary: Vocabulary | None = None
        self._chunks: list[list[int]] = []
        self._encoded: list[EncodedChunk] | None = None

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Put the names into prompts, unless they are the same as before.

        Raises:
            InputError: a name that does not fit, or of which nothing is left, see ``prompts``.

        Warns:
            UserWarning: names that are one text.
        """
        asked = vocabulary.queries
        if self.vocabulary is None or self.vocabulary.queries != asked:
            names = [name for name, _ in asked]
            warn_of_equal(names, self.rules)
            self._chunks = chunks(names, self.text.locate, self.text.room, self.rules)
            self.forget()
        self.vocabulary = vocabulary

    def forget(self) -> None:
        """Encode the names again when they are needed, since the weights have changed."""
        self._encoded = None

    @property
    def prompts(self) -> list[Prompt]:
        """The texts that are read.

        Raises:
            InputError: no vocabulary is set.
        """
        if self.vocabulary is None:
            raise InputError('no vocabulary is set: call set_vocabulary(vocabulary) first')
        names = [name for name, _ in self.vocabulary.queries]
        return [class_prompt([names[index] for index in chunk], self.rules) for chunk in self._chunks]

    @torch.no_grad()
    def encoded(self) -> list[EncodedChunk]:
        """The prompts with their features; encoded at the first call."""
        if self._encoded is None:
            assert self.vocabulary is not None or self.prompts
            classes = [index for _, index in self.vocabulary.queries]  # type: ignore[union-attr]
            self._encoded = []
            device = next(self.text.parameters()).device
            for prompt, chunk in zip(self.prompts, self._chunks, strict=True):
                with no_autocast(device):
                    found = self.text([prompt], self.rules.per_phrase)
                length = found.features.mask.shape[1]
                positive = positive_map(found.phrases[0], length, device=device)
                of_names = torch.tensor([classes[index] for index in chunk], device=device)
                self._encoded.append(EncodedChunk(found.features, positive, of_names))
        return self._encoded

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """The mean feature of the tokens of each name, unit rows (Q, D); detection does not need them."""
        self.set_vocabulary(vocabulary)
        rows = []
        for chunk in self.encoded():
            share = chunk.positive / chunk.positive.sum(dim=1, keepdim=True)
            rows.append(F.normalize(share @ chunk.features.hidden[0].float(), dim=-1))
        classes = torch.tensor([index for _, index in vocabulary.queries], device=rows[0].device)
        return ClassEmbeddings(torch.cat(rows), classes, len(vocabulary))
