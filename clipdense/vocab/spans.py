"""Places of phrases in a text: spans of characters [start, end)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from clipdense.utils.errors import InputError

Span = tuple[int, int]  # characters [start, end)

_MIRRORED = {'left': 'right', 'right': 'left'}
_SIDES = re.compile(r'\b(left|right)\b', re.IGNORECASE)


def check_spans(spans: Any, text: str) -> tuple[Span, ...]:
    """The spans of one phrase, as ``[[start, end], ...]``.

    Raises:
        InputError: spans that are nested more or less deeply, empty, or outside of the text.
    """
    shape = 'must be a list of [start, end], such as [[0, 5], [9, 20]]'
    if not isinstance(spans, Sequence) or isinstance(spans, str) or not spans:
        raise InputError(f'the spans of a phrase {shape}, got {spans!r:.60}')
    if all(_is_index(one) for one in spans):
        raise InputError(f'the spans of a phrase {shape}; {spans!r:.60} is a single span: put it in a list')
    for one in spans:
        if not isinstance(one, Sequence) or isinstance(one, str) or len(one) != 2:
            raise InputError(f'the spans of a phrase {shape}, got {spans!r:.60}')
        if not all(_is_index(place) for place in one):
            raise InputError(
                f'the spans of a phrase {shape}; those of {spans!r:.60} are nested one level too deep: a '
                'phrase of one box has its own list'
            )
        start, end = one
        if not 0 <= start < end <= len(text):
            raise InputError(
                f'the span [{start}, {end}] is not inside of the text of {len(text)} characters {text!r:.60}'
            )
    return tuple((int(start), int(end)) for start, end in spans)


def words_of(spans: Sequence[Span], text: str) -> str:
    """The words of a phrase; several spans are joined by a space."""
    return ' '.join(text[start:end] for start, end in spans)


def occurrence(text: str, phrase: str, used: set[Span]) -> Span:
    """The first unused place of a phrase, as whole words if there is one, without regard to case.

    Raises:
        InputError: the phrase is empty, or not (or not again) in the text.
    """
    if not phrase.strip():
        raise InputError(f'a phrase of the sentence {text!r:.60} is empty')
    words = re.escape(phrase.strip())
    for pattern in (rf'(?<!\w){words}(?!\w)', words):
        for match in re.finditer(pattern, text, re.IGNORECASE):
            if match.span() not in used:
                return match.span()
    again = 'not again' if re.search(words, text, re.IGNORECASE) else 'not'
    raise InputError(f'the phrase {phrase!r:.60} is {again} in the sentence {text!r:.80}')


def mirrored(text: str, phrases: Sequence[Sequence[Span]]) -> tuple[str, tuple[tuple[Span, ...], ...]]:
    """The text for a mirrored image: "left" and "right" change places, and the spans of its phrases move."""
    moves: list[tuple[int, int]] = []  # characters before this one, and how far the rest moves
    parts, last, shift = [], 0, 0
    for match in _SIDES.finditer(text):
        word = match.group()
        other = _MIRRORED[word.lower()]
        other = other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
        parts += [text[last : match.start()], other]
        last, shift = match.end(), shift + len(other) - len(word)
        moves.append((last, shift))
    if not moves:
        return text, tuple(tuple(spans) for spans in phrases)

    def moved(place: int) -> int:
        return place + next((by for end, by in reversed(moves) if place >= end), 0)

    spans = tuple(tuple((moved(start), moved(end)) for start, end in one) for one in phrases)
    return ''.join([*parts, text[last:]]), spans


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
