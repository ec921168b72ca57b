"""Tokenizers of weights, loaded when first used.  K: texts, L: tokens."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipdense.utils.errors import InputError
from clipdense.vocab.byte_pairs import VOCAB_SIZE
from clipdense.vocab.tokenizer import BaseTokenizer, HuggingFaceTokenizer, Tokenizer

from .sizes import TextSize

FILES = ('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'spiece.model')


class LazyTokenizer(ABC):
    """A tokenizer that is loaded when first used, and that returns tensors."""

    @cached_property
    def tokenizer(self) -> BaseTokenizer:
        """The wrapped tokenizer, which returns numpy arrays.

        Raises:
            InputError: the tokenizer files cannot be read.
        """
        return self._read()

    @property
    def identity(self) -> str:
        """A string that is equal only for tokenizers with equal results."""
        return self.tokenizer.identity

    def encode(self, text: str) -> list[int]:
        """The ids of a text, not truncated, without special ids."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, as cleaned before encoding."""
        return self.tokenizer.decode(int(index) for index in ids)

    def __call__(self, texts: str | Iterable[str], truncate: bool = True) -> Tensor:
        """One text or several -> (K, L) int64 token ids; see ``vocab.tokenizer.BaseTokenizer``.

        Raises:
            InputError: an input is not a text, or longer than the context with ``truncate=False``.
        """
        return torch.from_numpy(self.tokenizer(texts, truncate))

    @abstractmethod
    def _read(self) -> BaseTokenizer: ...


class OpenAITokenizer(LazyTokenizer):
    """OpenAI's byte-pair tokenizer, which needs no files.

    Args:
        context_length: of ``vocab.tokenizer.Tokenizer``.
    """

    def __init__(self, context_length: int = 77) -> None:
        self.context_length = context_length

    def _read(self) -> BaseTokenizer:
        return Tokenizer(self.context_length)


class FolderTokenizer(LazyTokenizer):
    """A Hugging Face tokenizer.

    Args:
        folder, context_length, clean: of ``vocab.tokenizer.HuggingFaceTokenizer``.
    """

    def __init__(self, folder: Path, context_length: int, clean: Any = 'canonicalize') -> None:
        self.folder, self.context_length, self.clean = folder, context_length, clean

    def _read(self) -> BaseTokenizer:
        return HuggingFaceTokenizer(self.folder, self.context_length, self.clean)


class MissingTokenizer:
    """Placeholder for the tokenizer of weights that have none; raises when used.

    Args:
        reason: the error message.
    """

    identity = None

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self, texts: str | Iterable[str], truncate: bool = True) -> Tensor:
        """Raise an error.

        Raises:
            InputError: always, with ``reason``.
        """
        raise InputError(self.reason)


def find_tokenizer(size: TextSize, path: Path, clean: str = 'canonicalize') -> Callable[..., Any] | None:
    """The tokenizer of the weights at ``path``; None for OpenAI's, which needs no files.

    Tokenizer files are in ``<name of the file>-tokenizer`` or next to the weights.
    """
    if size.vocab_size == VOCAB_SIZE and size.flavour == 'openai':
        return None
    folders = (path.with_name(f'{path.stem}-tokenizer'), path.parent)
    for folder in folders:
        if any((folder / name).is_file() for name in FILES):
            return FolderTokenizer(folder, size.context_length, clean)
    return MissingTokenizer(
        f'{path} has no tokenizer for its vocabulary of {size.vocab_size} tokens: put tokenizer.json and '
        f'tokenizer_config.json of the model into {folders[1]}'
    )


def copy_tokenizer(tokenizer: Any, folder: Path) -> bool:
    """Copy the files of a tokenizer into ``folder``; return False if it has none."""
    source = getattr(tokenizer, 'folder', None)
    if source is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        file = Path(source) / name
        if file.is_file() and not (folder / name).exists():
            shutil.copyfile(file, folder / name)
    return True
