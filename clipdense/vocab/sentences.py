"""A sentence and the phrases in it that are detected, as a vocabulary."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipdense.utils.errors import InputError
from clipdense.utils.files import digest

from .names import normalize
from .spans import Span, check_spans, occurrence, words_of
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from .noun_phrases import NounExtractor

_BREAK = re.compile(r'\s+')


@dataclass(frozen=True)
class Sentence(Vocabulary):
    """A vocabulary whose class names are phrases of a sentence; make one with ``Sentence.of``.

    A model that reads names together with their text, such as GLIP, reads the sentence; others are asked for
    the phrases as class names.

    Args:
        text: the sentence.
        spans: the places of each phrase in it, characters [start, end).  Class names that follow them, such
            as negatives, are not part of it.

    Example:
        >>> Sentence.of('there are some holes on the road').class_names
        ('some holes', 'the road')
    """

    text: str = ''
    spans: tuple[tuple[Span, ...], ...] = ()

    @classmethod
    def of(
        cls,
        text: str,
        phrases: Sequence[str | Sequence[Span]] | None = None,
        extractor: NounExtractor | None = None,
    ) -> Sentence:
        """A sentence with its phrases.

        Args:
            text: the sentence.
            phrases: words that stand in it, compared without regard to case, or the spans of a phrase, such
                as ``[[0, 5], [9, 20]]``.  A phrase that is given again is its next occurrence.  None: its
                noun phrases, with a determiner before them.
            extractor: finds the noun phrases; by the dictionary by default.

        Raises:
            InputError: an empty sentence, one without noun phrases, no phrases, or a phrase or span that is
                not in the sentence.
        """
        if not isinstance(text, str) or not text.strip():
            raise InputError(f'the sentence is empty, got {text!r:.60}')
        if isinstance(phrases, str) or not (phrases is None or isinstance(phrases, Sequence)):
            raise InputError(f'phrases must be a list, got {phrases!r:.60}')
        spans = _noun_phrases(text, extractor) if phrases is None else places_of(text, phrases)
        return cls(_names(text, spans), text=text, spans=spans)

    @property
    def digest(self) -> str:
        """SHA-256 of all fields; the same in every process."""
        own = json.dumps([self.text, self.spans], ensure_ascii=False)
        return digest('sentence', own, json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True))


def places_of(text: str, phrases: Sequence[str | Sequence[Span]]) -> tuple[tuple[Span, ...], ...]:
    """The spans of each phrase, see ``Sentence.of``.

    Raises:
        InputError: no phrases, or one that is not in the text.
    """
    if not phrases:
        raise InputError(f'the sentence {text!r:.60} has no phrases to ground')
    used: set[Span] = set()
    found = []
    for phrase in phrases:
        spans = (occurrence(text, phrase, used),) if isinstance(phrase, str) else check_spans(phrase, text)
        used.update(spans)
        found.append(spans)
    return tuple(found)


def _noun_phrases(text: str, extractor: NounExtractor | None) -> tuple[tuple[Span, ...], ...]:
    from .noun_phrases import NounExtractor

    spans = (extractor or NounExtractor()).spans(text)
    if not spans:
        raise InputError(
            f'no noun phrase was found in the sentence {text!r:.60}: give its phrases, or class names'
        )
    return tuple((span,) for span in spans)


def _names(text: str, spans: Sequence[Sequence[Span]]) -> tuple[str, ...]:
    """The words of each phrase; those of a phrase that is there again get a number."""
    names: list[str] = []
    taken: dict[str, int] = {}  # how often a name is there, so that the next number is found at once
    for one in spans:
        words = _BREAK.sub(' ', words_of(one, text)).strip()
        name, count = words, taken.get(normalize(words), 0)
        while normalize(name) in taken:
            count += 1
            name = f'{words} ({count})'
        taken[normalize(words)] = max(count, 1)
        taken.setdefault(normalize(name), 1)
        names.append(name)
    return tuple(names)
