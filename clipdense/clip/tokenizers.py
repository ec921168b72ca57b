"""Tokenizers of weights, loaded when first used.  K: texts, L: tokens."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write
from clipdense.utils.json_files import read_json
from clipdense.utils.tokenizer_files import FILES, TABLES
from clipdense.vocab.byte_pairs import VOCAB_SIZE
from clipdense.vocab.huggingface import HuggingFaceTokenizer, Mode, is_openai
from clipdense.vocab.tokenizer import BaseTokenizer, Tokenizer
from clipdense.vocab.tokenizer_classes import Clean, cleaning, read_config
from clipdense.weights import zoo

from .flavours import TEXT_FLAVOURS
from .sizes import HFTextSize, TextSize

if TYPE_CHECKING:
    from torch import Tensor

_NOT_KEPT = ('beside', 'entry')  # rules for finding the files
RULES = 'clipdense_tokenizer.json'  # in folders that we write: the fields of TokenizerRules


@dataclass(frozen=True)
class TokenizerRules:
    """What a config file says about the tokenizer of a model.

    Args:
        clean: preprocessing of texts; None means that of the tokenizer class.
        family: ``model_type`` of a Hugging Face model, for tokenizer files that name no class.
        beside: whether tokenizer files next to the weights belong to them, even for OpenAI's vocabulary.
        strip_end: whether the end token is replaced by 0 (CLIPA's ``strip_sep_token`` in open_clip).
        language: of the texts, such as 'deu_Latn', for tokenizers that mark it (NLLB).
        mode: of ``vocab.huggingface.HuggingFaceTokenizer``.
        entry: name in the zoo whose tokenizer files are fetched if there are none next to the weights.
    """

    clean: Clean | None = None
    family: str = ''
    beside: bool = False
    strip_end: bool = False
    language: str | None = None
    mode: Mode = ''
    entry: str = ''

    @classmethod
    def recorded(cls, folder: Path) -> TokenizerRules | None:
        """The rules in a folder that clipdense has written.

        Raises:
            InputError: a damaged file.
        """
        file = folder / RULES
        if not file.is_file():
            return None
        values = read_json(file)
        kinds = {'clean': str | None, 'family': str, 'strip_end': bool, 'language': str | None, 'mode': str}
        if not isinstance(values, dict) or 'clean' not in values:
            raise InputError(f'{file} is not a JSON object with clean, family and strip_end')
        known = {key: values[key] for key in kinds if key in values}
        for key, value in known.items():
            if not isinstance(value, kinds[key]):
                raise InputError(f'{file}: invalid {key}: {value!r}')
        return cls(**known)


class LazyTokenizer(ABC):
    """A tokenizer that is loaded when first used, and that returns tensors."""

    def set_language(self, language: str) -> None:
        """Mark texts as of this language, such as 'deu_Latn'; only some tokenizers do (NLLB).

        Raises:
            InputError: a tokenizer that does not mark languages, or does not know this one.
        """
        raise InputError(f'the tokenizer has no languages, got language={language!r}')

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

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self.tokenizer.vocab_size

    def encode(self, text: str) -> list[int]:
        """The ids of a text, not truncated, without special ids."""
        return self.tokenizer.encode(text)

    def locate(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text and their characters, see ``vocab.tokenizer.BaseTokenizer``.

        Raises:
            InputError: a tokenizer that changes the text.
        """
        return self.tokenizer.locate(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, as cleaned before encoding."""
        return self.tokenizer.decode(int(index) for index in ids)

    def __call__(self, texts: str | Iterable[str], truncate: bool = True) -> Tensor:
        """One text or several -> (K, L) int64 token ids; see ``vocab.tokenizer.BaseTokenizer``.

        Raises:
            InputError: an input is not a text, or longer than the context with ``truncate=False``.
        """
        import torch  # here, since listing the models reads this module and takes no second

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
    """A Hugging Face tokenizer, checked against the text tower it is used with.

    Args:
        folder: of ``vocab.huggingface.HuggingFaceTokenizer``.
        size: of the text tower.
        rules: what the config file of the model says about it.
    """

    def __init__(
        self, folder: Path, size: TextSize | HFTextSize, rules: TokenizerRules | None = None
    ) -> None:
        self.folder, self.size = folder, size
        self.rules = rules or TokenizerRules()

    @property
    def identity(self) -> str:
        """A string that is equal only for tokenizers with equal results."""
        return self.tokenizer.identity + (' without end token' if self.rules.strip_end else '')

    def __call__(self, texts: str | Iterable[str], truncate: bool = True) -> Tensor:
        """One text or several -> (K, L) int64 token ids; see ``vocab.tokenizer.BaseTokenizer``.

        Raises:
            InputError: as ``LazyTokenizer``; or a token that is not in the vocabulary of the text tower.
        """
        ids = super().__call__(texts, truncate)
        if ids.numel() and int(ids.max()) >= self.size.vocab_size:
            raise InputError(
                f'the tokenizer in {self.folder} gives the id {int(ids.max())}, but the model has '
                f'{self.size.vocab_size} tokens: the tokenizer files are those of another model'
            )
        end = getattr(self.tokenizer, 'end', None)
        if self.rules.strip_end and not self.rules.mode and end is not None:
            ids = ids.masked_fill(ids.eq(end), 0)
        return ids

    def set_language(self, language: str) -> None:
        """Mark texts as of this language from now on, such as 'deu_Latn'.

        Raises:
            InputError: a tokenizer that does not mark languages, or does not know this one.
        """
        before = self.rules
        self.rules = replace(before, language=language)
        self.__dict__.pop('tokenizer', None)
        try:
            _ = self.tokenizer
        except InputError:
            self.rules = before
            raise

    def _read(self) -> BaseTokenizer:
        rules, size = self.rules, self.size
        family = rules.family or getattr(size, 'model_type', '')
        made = HuggingFaceTokenizer(
            self.folder, size.context_length, rules.clean, family, language=rules.language, mode=rules.mode
        )
        if not _of_clip(size):
            return made
        if made.end is None:
            raise InputError(
                f'the tokenizer in {self.folder} does not end texts with a token, which a CLIP needs: set '
                'add_eos_token in tokenizer_config.json'
            )
        if size.eos_token_id not in (None, made.end):
            raise InputError(
                f'the tokenizer in {self.folder} ends texts with the id {made.end}, but the model expects '
                f'eos_token_id={size.eos_token_id}: the tokenizer files are those of another model'
            )
        if made.pads_left:
            raise InputError(
                f"{self.folder}/tokenizer_config.json: unsupported padding_side='left' of a CLIP"
            )
        return made


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

    def set_language(self, language: str) -> None:
        """Raise an error.

        Raises:
            InputError: always, with ``reason``.
        """
        raise InputError(self.reason)


def find_tokenizer(
    size: TextSize | HFTextSize, path: Path, rules: TokenizerRules | None = None
) -> FolderTokenizer | MissingTokenizer | None:
    """The tokenizer of the weights at ``path``; None for OpenAI's, which needs no files.

    Tokenizer files are in ``<name of the file>-tokenizer`` or next to the weights.

    Args:
        size: of the text tower.
        path: of the weights.
        rules: what the config file of the model says about its tokenizer.
    """
    standard = _of_clip(size) and size.vocab_size == VOCAB_SIZE and size.eos_token_id is None
    if rules is None:
        siglip = getattr(size, 'flavour', '').startswith('siglip')
        rules = TokenizerRules('canonicalize') if siglip else TokenizerRules(family='clip')
    for folder in (path.with_name(f'{path.stem}-tokenizer'), path.parent):
        if folder == path.parent and standard and not rules.beside:
            break  # the files next to it may belong to another model
        if any((folder / name).is_file() for name in TABLES):
            rules = TokenizerRules.recorded(folder) or rules
            same = standard and _is_openai(folder, rules.family)
            return None if same else FolderTokenizer(folder, size, rules)
    if standard:
        return None
    if rules.entry:
        try:
            return FolderTokenizer(zoo.fetch_tokenizer(zoo.find(rules.entry)), size, rules)
        except InputError as error:  # reported when the tokenizer is used
            return MissingTokenizer(str(error))
    return MissingTokenizer(
        f'{path} has no tokenizer for its vocabulary of {size.vocab_size} tokens: put tokenizer.json and '
        f'tokenizer_config.json of the model into {path.parent}'
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
    rules = {key: value for key, value in asdict(tokenizer.rules).items() if key not in _NOT_KEPT}
    rules['family'] = rules['family'] or read_config(Path(source))['model_type']
    with atomic_write(folder / RULES, 'w') as out:
        json.dump(rules, out)
    return True


def open_clip_rules(tokenizer: FolderTokenizer) -> dict[str, Any]:
    """The entries of a ``text_cfg`` of open_clip that say how a tokenizer with files is used."""
    rules = tokenizer.rules
    clean = cleaning(tokenizer.folder, rules.clean, rules.family)
    # the cleaning of open_clip that is nearest
    theirs = {'canonicalize': 'canonicalize', 'whitespace_lower': 'lower', 'lower': 'lower'}
    options: dict[str, Any] = {'clean': theirs.get(clean, 'whitespace')}
    if rules.strip_end:
        options['strip_sep_token'] = True
    if rules.language is not None:
        options['language'] = rules.language
    mode = {'tokenizer_mode': rules.mode} if rules.mode else {}
    return {'hf_tokenizer_name': '.', 'tokenizer_kwargs': options, **mode}


def _of_clip(size: TextSize | HFTextSize) -> TypeGuard[TextSize]:
    """Whether a tower takes texts that end with end-of-text, as OpenAI's."""
    return isinstance(size, TextSize) and TEXT_FLAVOURS[size.flavour].pool != 'last'


def _is_openai(folder: Path, family: str) -> bool:
    try:
        return is_openai(folder, family)
    except (InputError, AttributeError, KeyError, TypeError):  # reported when the tokenizer is used
        return False
