"""Texts that are detected, and the tokens of their phrases.  No module of torch, no tokenizer of its own.

A prompt is a text with phrases; a phrase is one or several spans of characters.  Class names are joined to a
prompt, see ``class_prompt``; a sentence with its phrases is a ``vocab.sentences.Sentence``.

T: tokens of a text, n: phrases.

Source: microsoft/GLIP engine/inference.py ``create_queries_and_maps``, data/datasets/modulated_coco.py
``create_positive_map``, data/datasets/od_to_grounding.py.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipdense.utils.errors import InputError
from clipdense.vocab.byte_pairs import mend
from clipdense.vocab.spans import Span, words_of
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.vocab.wording import WordedNames

Locate = Callable[[str], tuple[list[int], list[Span]]]  # of a tokenizer: ids, and their characters
_EPS = 1e-6  # of normalized rows
_TRIES = 3  # characters that are tried for the first and for the last token of a span
_NAMED = 5  # names in a message


class Prompt(NamedTuple):
    """A text and its phrases."""

    text: str
    phrases: tuple[tuple[Span, ...], ...]
    segments: tuple[Span, ...] = ()  # of a prompt of class names: each name with the words around it

    @property
    def names(self) -> tuple[str, ...]:
        """The words of each phrase; several spans are joined by a space."""
        return tuple(words_of(spans, self.text) for spans in self.phrases)


@dataclass(frozen=True)
class PromptRules:
    """How class names become prompts.

    Args:
        separator: between two names.
        wording: class name -> the words before its name, the name, and the words after it; only the name
            counts as the phrase.
        per_phrase: encode each class name as a text of its own and join the tokens, so that no name changes
            the features of another.
        last_token: with ``per_phrase``, of each name only the end-of-text token, which in a causal tower is
            the one that has read the whole name; a name then takes the room of one token.
        max_names: names in a prompt, at most; more become further prompts.  None: as many as fit.
        negatives: in training, names without an object in the image that are added to those with one, at
            most; in half of the prompts fewer.  None: all names.
        shuffle: in training, put the names of each prompt in a new order.

    Raises:
        InputError: a value out of range, or words that are no texts.
    """

    separator: str = '. '
    wording: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    per_phrase: bool = False
    last_token: bool = False
    max_names: int | None = None
    negatives: int | None = None
    shuffle: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.separator, str) or not self.separator:
            raise InputError(f'separator must be a text between two names, got {self.separator!r}')
        for name, least in (('max_names', 1), ('negatives', 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise InputError(f'{name} must be a whole number, at least {least}, or None, got {value!r}')
        if self.last_token and not self.per_phrase:
            raise InputError('last_token needs names that are encoded by themselves: set per_phrase=True')
        for name, words in self.wording.items():
            if isinstance(words, str) or len(words) != 3 or not all(isinstance(one, str) for one in words):
                raise InputError(
                    f'wording of {name!r} must be three texts (before the name, the name, after it), '
                    f'got {words!r:.60}'
                )


def rules_for(vocabulary: Vocabulary, rules: PromptRules) -> PromptRules:
    """The rules with the words of a vocabulary, which come before their own."""
    if not isinstance(vocabulary, WordedNames):
        return rules
    return replace(rules, wording={**rules.wording, **vocabulary.wording})


def clean_name(name: str) -> str:
    """A class name without brackets and underscores, as the published prompts have it.

    Everything from the first "(" to the last ")" is dropped; blanks before it stay.
    """
    return re.sub(r'\(.*\)', '', name).replace('_', ' ').replace('  ', ' ')


def class_prompt(names: Sequence[str], rules: PromptRules | None = None) -> Prompt:
    """Class names -> 'person. bicycle. car', with one phrase for each name.

    Raises:
        InputError: no names, or a name of which cleaning leaves nothing.
    """
    rules = rules or PromptRules()
    if not names:
        raise InputError('a prompt needs at least one class name')
    text, phrases, segments = '', [], []
    for name in names:
        before, words, after = _wording(name, rules)
        text += rules.separator if text else ''
        start = len(text) + len(before)
        segments.append((len(text), start + len(words) + len(after)))
        phrases.append(((start, start + len(words)),))
        text += before + words + after
    return Prompt(text, tuple(phrases), tuple(segments))


def phrases_prompt(phrases: Sequence[str], rules: PromptRules | None = None) -> Prompt:
    """Phrases as they are -> 'a red star. a cup', each a segment, which can be encoded by itself."""
    rules = rules or PromptRules()
    text, spans = '', []
    for words in phrases:
        text += rules.separator if text else ''
        spans.append((len(text), len(text) + len(words)))
        text += words
    return Prompt(text, tuple((one,) for one in spans), tuple(spans))


def warn_of_equal(names: Sequence[str], rules: PromptRules | None = None) -> None:
    """Warn of class names that are one text.

    Warns:
        UserWarning: two names are cleaned to the same words.
    """
    rules = rules or PromptRules()
    first: dict[tuple[str, ...], str] = {}
    for name in names:
        words = _wording(name, rules)
        key = tuple(' '.join(one.split()).casefold() for one in words)
        other = first.setdefault(key, name)
        if other != name:
            warnings.warn(
                f'{other!r:.60} and {name!r:.60} are both read as {words[1].strip()!r:.60}: their scores '
                'will hardly differ; rename one of them'
            )


def tokens_of(spans: Sequence[Span], places: Sequence[Span]) -> list[int]:
    """The tokens of a phrase.

    A span begins with the token of its first character, or of one of the next two, and ends with that of its
    last, or of one of the two before it; blanks have no token.

    Args:
        spans: characters.
        places: the characters of each token; special tokens have none, (0, 0).
    """
    owner = {char: token for token, (start, end) in enumerate(places) for char in range(start, end)}
    tokens: dict[int, None] = {}  # ordered
    for start, end in spans:
        first = next((owner[char] for char in range(start, start + _TRIES) if char in owner), None)
        last = next((owner[char] for char in range(end - 1, end - 1 - _TRIES, -1) if char in owner), None)
        if first is not None and last is not None:
            tokens.update(dict.fromkeys(range(first, last + 1)))
    return list(tokens)


def positive_map(
    phrases: Sequence[Sequence[int]], num_tokens: int, normalized: bool = False, device: Any = None
) -> Tensor:
    """The tokens of each phrase -> (n, T): 1 where a token belongs to a phrase.

    Args:
        phrases: tokens of each phrase.
        num_tokens: T.
        normalized: rows of sum 1.  The loss needs them as they are without it.
        device: of the map.
    """
    found = torch.zeros(len(phrases), num_tokens)
    for row, tokens in enumerate(phrases):
        found[row, list(tokens)] = 1.0
    if normalized:
        found /= found.sum(dim=1, keepdim=True) + _EPS
    return found.to(device)


def chunks(
    names: Sequence[str], locate: Locate, room: int, rules: PromptRules | None = None
) -> list[list[int]]:
    """Class names in prompts that fit -> the indices of the names of each prompt, in order.

    Args:
        names: class names.
        locate: ``locate`` of the tokenizer.
        room: tokens of a prompt, without special ones.
        rules: how names become prompts.

    Raises:
        InputError: a name that does not fit alone.
    """
    rules, mark = rules or PromptRules(), (rules or PromptRules()).separator.rstrip()
    found: list[list[int]] = [[]]
    used = 0
    for index, name in enumerate(names):
        words = ''.join(_wording(name, rules))
        count = len(locate(words + mark)[0])  # the name and what separates it from the next
        if count > room and len(locate(words)[0]) > room:
            raise InputError(
                f'the class name {name!r:.60} has {len(locate(words)[0])} tokens; {room} fit: shorten it'
            )
        count = 1 if rules.last_token else count
        full = rules.max_names is not None and len(found[-1]) >= rules.max_names
        if found[-1] and (used + count > room or full):
            found.append([])
            used = 0
        found[-1].append(index)
        used += count
    return found


def check_found(names: Sequence[str], phrases: Sequence[Sequence[int]]) -> None:
    """Refuse phrases without a token, which no box could be matched to.

    Raises:
        InputError: naming them.
    """
    empty = [name for name, tokens in zip(names, phrases, strict=True) if not tokens]
    if empty:
        shown = ', '.join(f'{name!r:.40}' for name in empty[:_NAMED])
        raise InputError(f'the tokenizer has no token for {shown}: use other words')


def _wording(name: str, rules: PromptRules) -> tuple[str, str, str]:
    before, words, after = rules.wording.get(name, ('', '', ''))
    words = words or clean_name(name)
    if not words.isascii():
        words = mend(words)
    if not words.strip():
        raise InputError(
            f'nothing is left of the class name {name!r:.60} without brackets and underscores: rename it'
        )
    return before, words, after
