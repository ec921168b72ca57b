"""The class names of a vocabulary, or the phrases of a sentence, as prompts, encoded once.

K: classes, Q: names and synonyms, T: tokens of a prompt, D: text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.layers.precision import no_autocast
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.sentences import Sentence
from clipdense.vocab.spans import words_of
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.vocab.wording import WordedNames

from .prompts import (
    Prompt,
    PromptRules,
    chunks,
    class_prompt,
    phrases_prompt,
    positive_map,
    rules_for,
    warn_of_equal,
)
from .structures import TextFeatures
from .text import GroundingText


class NamedPrompt(NamedTuple):
    """A text and the class of each of its phrases."""

    prompt: Prompt
    classes: tuple[int, ...]


class EncodedChunk(NamedTuple):
    """A prompt with some of the names."""

    features: TextFeatures  # of one text
    positive: Tensor  # (names, T)  1 where a token belongs to a name
    class_of: Tensor  # (names,)  class index of each name

    def features_for(self, count: int) -> TextFeatures:
        """The same text for each of so many images."""
        hidden, embedded, mask = (one.expand(count, *one.shape[1:]) for one in self.features)
        return TextFeatures(hidden, embedded, mask)


def named_prompts(vocabulary: Vocabulary, text: GroundingText, rules: PromptRules) -> list[NamedPrompt]:
    """The texts that are read for a vocabulary: a sentence, then texts of class names.

    With ``rules.per_phrase`` the phrases of a sentence are read by themselves, as they are in training.

    Raises:
        InputError: a name that does not fit, or of which nothing is left, see ``prompts``.

    Warns:
        UserWarning: names that are one text.
    """
    found = []
    rules = rules_for(vocabulary, rules)
    asked = vocabulary.spelled if isinstance(vocabulary, WordedNames) else vocabulary.queries
    if isinstance(vocabulary, Sentence):
        phrases = vocabulary.spans
        if rules.per_phrase:
            words = [words_of(spans, vocabulary.text) for spans in phrases]
            for chunk in chunks(words, text.locate, text.room, replace(rules, wording={}, max_names=None)):
                found.append(NamedPrompt(phrases_prompt([words[one] for one in chunk], rules), tuple(chunk)))
        else:
            found.append(NamedPrompt(Prompt(vocabulary.text, phrases), tuple(range(len(phrases)))))
        asked = tuple(one for one in asked if one[1] >= len(phrases))
    names = [name for name, _ in asked]
    warn_of_equal(names, rules)
    for chunk in chunks(names, text.locate, text.room, rules) if names else ():
        prompt = class_prompt([names[index] for index in chunk], rules)
        found.append(NamedPrompt(prompt, tuple(asked[index][1] for index in chunk)))
    return found


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
        self._prompts: list[NamedPrompt] = []
        self._encoded: list[EncodedChunk] | None = None

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Put the names into prompts, unless they are the same as before.

        Raises:
            InputError: a name that does not fit, or of which nothing is left, see ``prompts``.

        Warns:
            UserWarning: names that are one text.
        """
        if self.vocabulary is None or _read(self.vocabulary) != _read(vocabulary):
            self._prompts = named_prompts(vocabulary, self.text, self.rules)
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
        return [one.prompt for one in self._prompts]

    @torch.no_grad()
    def encoded(self) -> list[EncodedChunk]:
        """The prompts with their features; encoded at the first call."""
        if self._encoded is None:
            assert self.prompts
            self._encoded = [chunk for one in self._prompts for chunk in self.encode([one])]
        return self._encoded

    @torch.no_grad()
    def encode(self, prompts: Sequence[NamedPrompt]) -> list[EncodedChunk]:
        """Prompts of a batch with their features, padded to the longest."""
        device = next(self.text.parameters()).device
        with no_autocast(device):
            found = self.text([one.prompt for one in prompts], self.rules.per_phrase, self.rules.last_token)
        length = found.features.mask.shape[1]
        chunks = []
        for row, (one, phrases) in enumerate(zip(prompts, found.phrases, strict=True)):
            features = TextFeatures(*(part[row : row + 1] for part in found.features))
            positive = positive_map(phrases, length, device=device)
            chunks.append(EncodedChunk(features, positive, torch.tensor(one.classes, device=device)))
        return chunks

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """The mean feature of the tokens of each name, unit rows (Q, D); detection does not need them."""
        self.set_vocabulary(vocabulary)
        rows = []
        for chunk in self.encoded():
            share = chunk.positive / chunk.positive.sum(dim=1, keepdim=True)
            rows.append(F.normalize(share @ chunk.features.hidden[0].float(), dim=-1))
        classes = torch.tensor([index for _, index in vocabulary.queries], device=rows[0].device)
        return ClassEmbeddings(torch.cat(rows), classes, len(vocabulary))


def _read(vocabulary: Vocabulary) -> tuple[Any, ...]:
    """What the prompts depend on."""
    more: tuple[Any, ...] = ()
    if isinstance(vocabulary, Sentence):
        more = vocabulary.text, vocabulary.spans
    elif isinstance(vocabulary, WordedNames):
        more = vocabulary.spelled, tuple(vocabulary.wording.items())
    return (vocabulary.queries, *more)
