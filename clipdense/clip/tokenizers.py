"""Tokenizers that come with weights; what is wrong with one matters only once it is used."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from clipdense.utils.errors import InputError
from clipdense.vocab.byte_pairs import VOCAB_SIZE
from clipdense.vocab.tokenizer import HuggingFaceTokenizer

from .sizes import TextSize

FILES = ('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'spiece.model')


class FolderTokenizer:
    """A Hugging Face tokenizer that is read from its folder when the first text arrives.

    Args:
        folder, context_length, clean: of ``vocab.tokenizer.HuggingFaceTokenizer``.
    """

    def __init__(self, folder: Path, context_length: int, clean: Any = 'canonicalize') -> None:
        self.folder, self.context_length, self.clean = folder, context_length, clean

    @cached_property
    def whole(self) -> HuggingFaceTokenizer:
        """The tokenizer itself.

        Raises:
            InputError: its files cannot be read.
        """
        return HuggingFaceTokenizer(self.folder, self.context_length, self.clean)

    @property
    def identity(self) -> str:
        """A string that only tokenizers which give equal rows share."""
        return self.whole.identity

    def __call__(self, texts: str | Iterable[str], truncate: bool = True) -> Any:
        """Texts -> (K, L) int64 token ids."""
        return self.whole(texts, truncate)


class MissingTokenizer:
    """Stands where weights came without their tokenizer.

    Args:
        reason: what is missing.
    """

    identity = None

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self, texts: str | Iterable[str], truncate: bool = True) -> Any:
        """Refuses.

        Raises:
            InputError: always; says what is missing.
        """
        raise InputError(self.reason)


def find_tokenizer(size: TextSize, path: Path, clean: str = 'canonicalize') -> Callable[..., Any] | None:
    """The tokenizer of the weights at ``path``: None for OpenAI's, which needs no file.

    Tokenizer files lie in ``<name of the file>-tokenizer`` or beside the weights.
    """
    if size.vocab_size == VOCAB_SIZE and size.flavour == 'openai':
        return None
    folders = (path.with_name(f'{path.stem}-tokenizer'), path.parent)
    for folder in folders:
        if any((folder / name).is_file() for name in FILES):
            return FolderTokenizer(folder, size.context_length, clean)
    return MissingTokenizer(
        f'{path} came without a tokenizer for its {size.vocab_size} token ids: put tokenizer.json and '
        f'tokenizer_config.json of the model into {folders[1]}, or set clip.tokenizer'
    )


def copy_tokenizer(tokenizer: Any, folder: Path) -> bool:
    """Copy the files of a tokenizer that has some into ``folder``; whether there were any."""
    source = getattr(tokenizer, 'folder', None)
    if source is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        file = Path(source) / name
        if file.is_file() and not (folder / name).exists():
            shutil.copyfile(file, folder / name)
    return True
