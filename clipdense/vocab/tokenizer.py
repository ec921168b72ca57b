"""Tokenizers: OpenAI's, and those of Hugging Face folders (SigLIP).

K: texts, L: context length.  Ids equal those of openai/CLIP ``clip.tokenize(texts, truncate=True)``.
"""

from __future__ import annotations

import json
import string
import textwrap
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clipdense.utils.errors import InputError
from clipdense.utils.files import digest

from .byte_pairs import MERGES_SHA256, VOCAB_SIZE, mend, openai_byte_pairs, split_words

if TYPE_CHECKING:
    from torch import Tensor

Clean = Literal['canonicalize', 'lower', 'none']
_NO_PUNCTUATION = str.maketrans('', '', string.punctuation)


class BaseTokenizer(ABC):
    """Rows of ids: ``prefix``, the ids of a text, ``end``, then ``pad`` up to the context length.

    Args:
        context_length: L, ids in a row.
        max_warnings: maximum number of warnings about truncated texts.
    """

    prefix: tuple[int, ...] = ()
    end: int
    pad: int
    vocab_size: int

    def __init__(self, context_length: int, max_warnings: int = 20) -> None:
        if context_length < len(self.prefix) + 2:
            raise InputError(f'context_length={context_length} is too short for any text')
        self.context_length = context_length
        self.max_warnings = max_warnings

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
        room = self.context_length - len(self.prefix) - 1
        cut = []
        for row, text in zip(rows, texts, strict=True):
            if not isinstance(text, str):
                raise InputError(f'a text must be a string, got {type(text).__name__}: {text!r:.80}')
            ids = self.encode(text)
            if len(ids) > room:
                cut.append((text, ids[room:]))
                ids = ids[:room]
            row[: len(self.prefix) + len(ids) + 1] = (*self.prefix, *ids, self.end)
        if cut:
            self._warn_of_truncation(cut, truncate)
        return rows

    def _warn_of_truncation(self, cut: list[tuple[str, list[int]]], truncate: bool) -> None:
        """Warn or raise, with the first text that is too long and its truncated part."""
        text, lost = cut[0]
        others = f' (and {len(cut) - 1} more)' if len(cut) > 1 else ''
        too_long = f'{_short(text, 80)!r}{others} is longer than {self.context_length} tokens'
        if not truncate:
            raise InputError(f'{too_long}; shorten it, or pass truncate=True')
        if self.max_warnings > 0:
            self.max_warnings -= 1
            last = '' if self.max_warnings else ' (further truncated texts are not reported)'
            warnings.warn(
                f'{too_long} and was truncated; removed text: {_short(self.decode(lost), 300)!r}{last}'
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
    prefix = (start,)

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

    def decode(self, ids: Iterable[int]) -> str:
        return b''.join(self._words.pieces[index] for index in ids).decode(errors='replace')


class HuggingFaceTokenizer(BaseTokenizer):
    """The tokenizer of a Hugging Face folder as SigLIP uses it: ids, one end id, padding to the full context.

    SigLIP uses canonical text (big_vision ``prompt_engineering.canonicalize_text``): lower case, no ASCII
    punctuation, single spaces. Padding is the pad token of ``tokenizer_config.json``, which in the
    first SigLIP is the end token.

    Args:
        folder: with ``tokenizer_config.json`` and ``tokenizer.json``, or what ``transformers.AutoTokenizer``
            reads without the network.
        context_length: L; 64 in most SigLIPs.
        clean: preprocessing of texts: 'canonicalize', 'lower' (lower case only) or 'none'.
        max_warnings: maximum number of warnings about truncated texts.

    Raises:
        InputError: no folder, no tokenizer in it, a missing package, or no end or pad token.
    """

    def __init__(
        self,
        folder: str | Path,
        context_length: int = 64,
        clean: Clean = 'canonicalize',
        max_warnings: int = 20,
    ) -> None:
        super().__init__(context_length, max_warnings)
        self.folder, self.clean = Path(folder), clean
        if clean not in _CLEANERS:
            raise InputError(f'unknown value clean={clean!r}; use {", ".join(_CLEANERS)}')
        if not self.folder.is_dir():
            raise InputError(f'the tokenizer folder {self.folder} does not exist')
        config = self._read_config()
        self._vocab: dict[str, int] = self._backend.get_vocab()
        self.vocab_size = len(self._vocab)
        self.prefix = (self._special('bos_token', config),) if config.get('add_bos_token') else ()
        self.end, self.pad = self._special('eos_token', config), self._special('pad_token', config)

    def __reduce__(self) -> tuple[type[HuggingFaceTokenizer], tuple[Path, int, Clean, int]]:
        return type(self), (self.folder, self.context_length, self.clean, self.max_warnings)

    @cached_property
    def identity(self) -> str:
        file = self.folder / 'tokenizer.json'
        table = file.read_bytes() if file.is_file() else json.dumps(self._vocab, sort_keys=True)
        rules = (self.clean, self.context_length, self.prefix, self.end, self.pad)
        return f'huggingface {digest(table)} {rules}'

    def encode(self, text: str) -> list[int]:
        encoded = self._backend.encode(_CLEANERS[self.clean](text), add_special_tokens=False)
        return list(getattr(encoded, 'ids', encoded))

    def decode(self, ids: Iterable[int]) -> str:
        return self._backend.decode([int(index) for index in ids])

    @cached_property
    def _backend(self) -> Any:
        """Read with the ``tokenizers`` package, or with ``transformers`` for older formats."""
        file = self.folder / 'tokenizer.json'
        try:
            if not file.is_file():
                from transformers import AutoTokenizer

                return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            import tokenizers

            backend = tokenizers.Tokenizer.from_file(str(file))
            backend.no_truncation()
            backend.no_padding()
            return backend
        except ImportError as error:
            raise InputError(
                f'the tokenizer in {self.folder} needs the package {error.name}; run pip install transformers'
            ) from error
        except Exception as error:  # tokenizers raises bare Exceptions
            reason = _short(str(error), 200) or type(error).__name__
            raise InputError(f'cannot read the tokenizer in {self.folder}: {reason}') from error

    def _read_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for name in ('special_tokens_map.json', 'tokenizer_config.json'):
            file = self.folder / name
            try:
                config.update(json.loads(file.read_text('utf-8')) if file.is_file() else {})
            except ValueError as error:
                raise InputError(f'{file} is not JSON: {error}') from error
        return config

    def _special(self, role: str, config: dict[str, Any]) -> int:
        token = config.get(role)
        token = token.get('content') if isinstance(token, dict) else token
        if token not in self._vocab:
            raise InputError(
                f'{role} in {self.folder}/tokenizer_config.json must be a known token, got {token!r}'
            )
        return self._vocab[token]


def tokenize(texts: str | Iterable[str], context_length: int = 77, truncate: bool = True) -> Tensor:
    """OpenAI token ids as an int64 tensor (K, L); see ``Tokenizer``."""
    import torch

    return torch.from_numpy(Tokenizer(context_length)(texts, truncate))


def canonicalize(text: str) -> str:
    """Fix encodings, lower case, remove ASCII punctuation, single spaces; underscores become spaces."""
    return ' '.join(mend(text).replace('_', ' ').translate(_NO_PUNCTUATION).lower().split())


_CLEANERS: dict[str, Callable[[str], str]] = {'canonicalize': canonicalize, 'lower': str.lower, 'none': str}


def _short(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=' ...') if ' ' in text.strip() else text[:width]
