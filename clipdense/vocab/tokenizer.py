"""OpenAI's tokenizer, and what it shares with those of Hugging Face folders (``vocab.huggingface``).

K: texts, L: context length.  Ids equal those of openai/CLIP ``clip.tokenize(texts, truncate=True)``.
"""

from __future__ import annotations

import textwrap
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from clipdense.utils.errors import InputError

from .byte_pairs import MERGES_SHA256, VOCAB_SIZE, locate_words, openai_byte_pairs, split_words

if TYPE_CHECKING:
    from torch import Tensor


class BaseTokenizer(ABC):
    """Rows of ids: ``prefix``, the ids of a text, ``suffix``, then ``pad`` up to the context length.

    ``end`` is the id in ``suffix`` that ends a text, None for a tokenizer that adds none; ``pads_left`` puts
    ``pad`` before ``prefix``; ``last`` is an id at the last position of each row.  ``unknown`` is the id of
    characters that are not in the vocabulary; ``english`` says that it is made of English texts, although it
    has all bytes.

    Args:
        context_length: L, ids in a row.
        max_warnings: maximum number of warnings about truncated texts.
    """

    prefix: tuple[int, ...] = ()
    end: int | None
    suffix: tuple[int, ...] = ()
    last: int | None = None
    pad: int
    pads_left = False
    unknown: int | None = None
    english = False
    vocab_size: int

    def __init__(self, context_length: int, max_warnings: int = 20) -> None:
        self.context_length = context_length
        if context_length < len(self.prefix) + 2 or self.room < 1:
            raise InputError(f'context_length={context_length} is too short for any text')
        self.max_warnings = max_warnings

    @property
    def room(self) -> int:
        """The number of ids of a text that a row can hold."""
        return self.context_length - len(self.prefix) - len(self.suffix) - (self.last is not None)

    @property
    @abstractmethod
    def identity(self) -> str:
        """A string that is equal for tokenizers with equal results only."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text, not truncated, without special ids."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, as far as cleaning and splitting are reversible."""

    def locate(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text, without special ids, and the characters [start, end) that each stands for.

        The text is read as it is: faulty encodings and HTML entities are not mended.

        Raises:
            InputError: a tokenizer that changes the text, so that its tokens have no place in it.
        """
        raise InputError(f'a {type(self).__name__} does not say where its tokens are in the text')

    def __call__(self, texts: str | Iterable[str], truncate: bool = True) -> np.ndarray:
        """Token ids of one text or several.

        Args:
            texts: K texts.
            truncate: truncate long texts, keeping the end-of-text id, with a warning.

        Returns:
            (K, L) int64.

        Raises:
            InputError: an item that is not a string, or a text that is too long with ``truncate=False``.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = np.full((len(texts), self.context_length), self.pad, np.int64)
        room, cut = self.room, []
        for row, text in zip(rows, texts, strict=True):
            if not isinstance(text, str):
                raise InputError(f'a text must be a string, got {type(text).__name__}: {text!r:.80}')
            ids = self.encode(text)
            if len(ids) > room:
                cut.append((text, ids[room:]))
                ids = ids[:room]
            ids = [*self.prefix, *ids, *self.suffix]
            row[len(row) - len(ids) if self.pads_left else 0 :][: len(ids)] = ids
        if self.last is not None:
            rows[:, -1] = self.last
        if cut:
            self._warn_of_truncation(cut, truncate)
        return rows

    def _warn_of_truncation(self, cut: list[tuple[str, list[int]]], truncate: bool) -> None:
        """Warn or raise, with the first text that is too long and its truncated part."""
        text, lost = cut[0]
        others = f' (and {len(cut) - 1} more)' if len(cut) > 1 else ''
        too_long = f'{short(text, 80)!r}{others} is longer than {self.context_length} tokens'
        if not truncate:
            raise InputError(f'{too_long}; shorten it, or pass truncate=True')
        if self.max_warnings > 0:
            self.max_warnings -= 1
            last = '' if self.max_warnings else ' (further truncated texts are not reported)'
            warnings.warn(
                f'{too_long} and was truncated; removed text: {short(self.decode(lost), 300)!r}{last}'
            )


class Tokenizer(BaseTokenizer):
    """OpenAI's tokenizer: lower-cased byte pairs, 49,408 ids, padded with zeros.

    The table and the cached words are shared by all instances of a process, and pickling stores only the
    settings.

    Args:
        context_length: L, 77 in every published CLIP.
        max_warnings: maximum number of warnings about truncated texts.

    Raises:
        InputError: the merge table is not installed, or is not OpenAI's.
    """

    vocab_size = VOCAB_SIZE
    start, end, pad = VOCAB_SIZE - 2, VOCAB_SIZE - 1, 0
    prefix, suffix = (start,), (end,)
    english = True

    def __init__(self, context_length: int = 77, max_warnings: int = 20) -> None:
        super().__init__(context_length, max_warnings)
        self._words = openai_byte_pairs()

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[int, int]]:
        return type(self), (self.context_length, self.max_warnings)

    @property
    def identity(self) -> str:
        return f'openai-bpe {MERGES_SHA256} {self.context_length}'

    def encode(self, text: str) -> list[int]:
        words = self._words
        return [index for word in split_words(text) for index in words[word]]

    def locate(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids, places = [], []
        for word, chars in locate_words(text):
            owners = [place for place, char in zip(chars, word, strict=True) for _ in char.encode()]
            start = 0
            for index in self._words[word]:
                length = len(self._words.pieces[index].rstrip(b' '))
                read = owners[start : start + length]
                ids.append(index)
                places.append((read[0], read[-1] + 1))
                start += length
        return ids, places

    def decode(self, ids: Iterable[int]) -> str:
        return b''.join(self._words.pieces[index] for index in ids).decode(errors='replace')


def tokenize(texts: str | Iterable[str], context_length: int = 77, truncate: bool = True) -> Tensor:
    """OpenAI token ids as an int64 tensor (K, L); see ``Tokenizer``."""
    import torch

    return torch.from_numpy(Tokenizer(context_length)(texts, truncate))


def short(text: str, width: int) -> str:
    """The beginning of a text, with an ellipsis if it has several words."""
    return textwrap.shorten(text, width, placeholder=' ...') if ' ' in text.strip() else text[:width]
