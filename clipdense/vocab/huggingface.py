"""Tokenizers of Hugging Face folders, which follow the files of the folder.

K: texts, L: context length.
"""

from __future__ import annotations

import importlib.util
import json
import re
import string
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from clipdense.utils.errors import InputError, MissingPackage, nearest
from clipdense.utils.files import digest
from clipdense.utils.json_files import read_json

from .byte_pairs import VOCAB_SIZE, mend, openai_byte_pairs
from .tokenizer import BaseTokenizer, short
from .tokenizer_classes import CLIP_CLASS, Clean, class_of, cleaning, read_config

_LANGUAGE = re.compile('[a-z]{3}_[A-Z][a-z]{3}')  # tokens of languages, such as 'deu_Latn'
Mode = Literal['', 'clips']
_CLIP_FAMILIES = ('clip', 'groupvit', 'metaclip_2')
_PROBES = ('a', 'the', '1', 'x')  # texts of at least one token, to see which special tokens are added


class HuggingFaceTokenizer(BaseTokenizer):
    """The tokenizer of a Hugging Face folder: ids as transformers gives them with ``padding='max_length'``.

    Start, end and padding tokens, the side of the padding, lower case and added tokens are those of
    ``tokenizer.json`` and ``tokenizer_config.json``, and of the tokenizer class that is named there.

    Texts of the first SigLIP are canonical (big_vision ``prompt_engineering.canonicalize_text``): lower case,
    no ASCII punctuation, single spaces.

    Args:
        folder: with ``tokenizer_config.json`` and ``tokenizer.json``, or what ``transformers.AutoTokenizer``
            reads without the network.
        context_length: L; 64 in most SigLIPs.
        clean: preprocessing of texts: 'canonicalize', 'no_punctuation', 'whitespace' and 'whitespace_lower'
            (open_clip), 'lower' or 'none'; by default that of the tokenizer class.
        family: ``model_type`` of the model, for folders that name no tokenizer class.
        max_warnings: maximum number of warnings about truncated texts.
        language: of the texts, such as 'deu_Latn', for tokenizers that mark it (NLLB); by default that of
            the files, else English.
        mode: 'clips' begins texts with the start token, ends them with the end token, and puts the class
            token at the last position (open_clip ``tokenizer_mode``).

    Raises:
        InputError: no folder, no tokenizer in it, a missing package, no end or pad token, or an unknown
            language.
    """

    def __init__(
        self,
        folder: str | Path,
        context_length: int = 64,
        clean: Clean | None = None,
        family: str = '',
        max_warnings: int = 20,
        language: str | None = None,
        mode: Mode = '',
    ) -> None:
        self.folder, self._asked, self.family = Path(folder), clean, family
        self.mode = mode
        if clean is not None and clean not in _CLEANERS:
            raise InputError(f'unknown value clean={clean!r}; use {", ".join(_CLEANERS)}')
        if not self.folder.is_dir():
            raise InputError(f'the tokenizer folder {self.folder} does not exist')
        self._config = config = read_config(self.folder)
        self._kind = kind = class_of(config, family)
        lower = kind.lower and config.get('do_lower_case') is not False
        self.clean = cleaning(self.folder, clean, family)
        self._backend = _read_backend(self.folder, lower)
        self._vocab: dict[str, int] = self._backend.get_vocab()
        self.vocab_size = len(self._vocab)
        self.language = self._language(language)
        self.prefix, self.end, self.suffix = self._template()
        self.last = self._special('cls_token') if mode == 'clips' else None
        self.pad = self._pad()
        self.unknown, self.english = self._unknown(), kind.english
        side = config.get('padding_side', 'left' if kind.pads_left else 'right')
        if side not in ('left', 'right'):
            raise InputError(f"padding_side in {self.folder} must be 'left' or 'right', got {side!r}")
        self.pads_left = side == 'left'
        longest = config.get('model_max_length')
        if family and isinstance(longest, int) and len(self.prefix) + 2 <= longest < context_length:
            context_length = longest
        super().__init__(context_length, max_warnings)

    def __reduce__(self) -> tuple[type[HuggingFaceTokenizer], tuple[Any, ...]]:
        settings = (self.folder, self.context_length, self._asked, self.family, self.max_warnings)
        return type(self), (*settings, self.language, self.mode)

    @cached_property
    def identity(self) -> str:
        file = self.folder / 'tokenizer.json'
        table = file.read_bytes() if file.is_file() else json.dumps(self._vocab, sort_keys=True)
        rules = (self.clean, self.context_length, self.prefix, self.end, self.pad)
        more = (self._kind.lower, self.pads_left) if self._kind.lower or self.pads_left else ()
        if self.mode or len(self.suffix) > 1:
            more = (*more, self.suffix, self.last)
        return f'huggingface {digest(table)} {(*rules, *more)}'

    def encode(self, text: str) -> list[int]:
        return self._ids(_CLEANERS[self.clean](text), special=False)

    def locate(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        cleaned = _CLEANERS[self.clean](text)
        encoded = self._backend.encode(text, add_special_tokens=False)
        if cleaned.lower() != text.lower() or not hasattr(encoded, 'offsets'):
            return super().locate(text)
        return list(encoded.ids), [(int(start), int(end)) for start, end in encoded.offsets]

    def decode(self, ids: Iterable[int]) -> str:
        return self._backend.decode([int(index) for index in ids]).replace('</w>', ' ').strip()

    def _ids(self, text: str, special: bool) -> list[int]:
        encoded = self._backend.encode(text, add_special_tokens=special)
        return list(getattr(encoded, 'ids', encoded))

    def _template(self) -> tuple[tuple[int, ...], int | None, tuple[int, ...]]:
        """The ids before a text, the id that ends it, None if the tokenizer adds none, and all ids after it.

        Raises:
            InputError: more than one id after a text.
        """
        config, kind = self._config, self._kind
        if self.mode == 'clips':
            end = self._special('eos_token')
            return (self._special('bos_token'),), end, (end,)
        if self.language is not None:
            end, language = self._special('eos_token'), self._vocab[self.language]
            legacy = bool(config.get('legacy_behaviour', False))
            return ((), end, (end, language)) if legacy else ((language,), end, (end,))
        before, after = self._added()
        if len(after) > 1:
            raise InputError(
                f'the tokenizer in {self.folder} ends texts with {len(after)} tokens: only one is supported'
            )
        if kind.starts or (config.get('add_bos_token') and not before):
            before = (self._special('bos_token'),)
        has_template = getattr(self._backend, 'post_processor', self) is not None
        if kind.ends or (not after and config.get('add_eos_token', not has_template)):
            after = (self._special('eos_token'),)
        return before, after[0] if after else None, after

    def _added(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special ids that the backend adds before and after a text."""
        for text in _PROBES:
            plain, full = self._ids(text, special=False), self._ids(text, special=True)
            for start in range(len(full) if plain else 0):
                end = start + len(plain)
                if full[start:end] == plain:
                    return tuple(full[:start]), tuple(full[end:])
        return (), ()

    def _pad(self) -> int:
        if self.end is not None and self.family in _CLIP_FAMILIES and 'pad_token' not in self._config:
            return self.end  # padding has no effect on a causal tower
        return self._special('pad_token')

    def _language(self, asked: str | None) -> str | None:
        """The language of the texts; None if the tokenizer does not mark it.

        Raises:
            InputError: a language that is not in the vocabulary, or asked of a tokenizer without languages.
        """
        language = asked or self._config.get('src_lang') or self._kind.language
        if not self._kind.language:
            if asked is not None:
                raise InputError(f'the tokenizer in {self.folder} has no languages, got language={asked!r}')
            return None
        if not isinstance(language, str) or language not in self._vocab or not _LANGUAGE.fullmatch(language):
            known = sorted(filter(_LANGUAGE.fullmatch, self._vocab))
            raise InputError(
                f'the tokenizer in {self.folder} has no language {language!r}: it has {len(known)}, such as '
                f'{", ".join(known[:3])}.{nearest(str(language), known)}'
            )
        return language

    def _unknown(self) -> int | None:
        """The id of characters that are not in the vocabulary; None if there is none."""
        model = getattr(self._backend, 'model', None)
        token = self._config.get('unk_token', getattr(model, 'unk_token', None)) or '<unk>'
        token = token.get('content') if isinstance(token, dict) else token
        return self._vocab.get(token) if isinstance(token, str) else None

    @cached_property
    def mask(self) -> int | None:
        """The id of the mask token; None without one."""
        return None if self._config.get('mask_token') is None else self._special('mask_token')

    def _special(self, role: str) -> int:
        token = self._config.get(role, self._kind.special.get(role))
        token = token.get('content') if isinstance(token, dict) else token
        if not isinstance(token, str) or token not in self._vocab:
            raise InputError(
                f'{role} in {self.folder}/tokenizer_config.json must be a known token, got {token!r}'
            )
        return self._vocab[token]


def is_openai(folder: Path, family: str) -> bool:
    """Whether a folder has OpenAI's vocabulary, in lower case, without added tokens.

    Raises:
        InputError: a damaged file.
    """
    lower = class_of(read_config(folder), family) is CLIP_CLASS
    file = folder / 'tokenizer.json'
    if file.is_file():
        values = read_json(file)
        lower = lower or 'Lowercase' in json.dumps(values.get('normalizer'))
        added = {token['id'] for token in values.get('added_tokens') or ()}
        vocab = values['model']['vocab']
    elif (folder / 'vocab.json').is_file():
        vocab = read_json(folder / 'vocab.json')
        extra = folder / 'added_tokens.json'
        added = set(read_json(extra).values()) if extra.is_file() else set()
    else:
        return False
    return lower and added <= {VOCAB_SIZE - 2, VOCAB_SIZE - 1} and vocab == openai_byte_pairs().vocabulary()


def canonicalize(text: str) -> str:
    """Fix encodings, lower case, remove ASCII punctuation, single spaces; underscores become spaces."""
    return _no_punctuation(text).lower()


_NO_PUNCTUATION = str.maketrans('', '', string.punctuation)


def _no_punctuation(text: str) -> str:
    return ' '.join(mend(text).replace('_', ' ').translate(_NO_PUNCTUATION).split())


def _whitespace(text: str) -> str:
    return ' '.join(mend(text).split())


_CLEANERS: dict[str, Callable[[str], str]] = {
    'canonicalize': canonicalize,
    'no_punctuation': _no_punctuation,
    'whitespace': _whitespace,
    'whitespace_lower': lambda text: _whitespace(text).lower(),
    'lower': str.lower,
    'none': str,
}


def _read_backend(folder: Path, lower: bool) -> Any:
    """Read with the ``tokenizers`` package, or with ``transformers`` for older formats."""
    file = folder / 'tokenizer.json'
    pieces = [path.name for path in sorted(folder.glob('*.model'))]
    try:
        if not file.is_file():
            if pieces and importlib.util.find_spec('sentencepiece') is None:
                raise ImportError(name='sentencepiece')
            from transformers import AutoTokenizer

            slow = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if not hasattr(slow, 'backend_tokenizer'):
                return slow
        import tokenizers

        backend = tokenizers.Tokenizer.from_file(str(file)) if file.is_file() else slow.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        if lower and 'Lowercase' not in repr(backend.normalizer):
            steps = [tokenizers.normalizers.Lowercase(), *filter(None, [backend.normalizer])]
            backend.normalizer = tokenizers.normalizers.Sequence(steps)
        return backend
    except ImportError as error:
        needed = 'transformers sentencepiece protobuf' if pieces and not file.is_file() else 'transformers'
        package = error.name or needed.replace(' ', ' and ', 1)
        raise MissingPackage(
            f'the tokenizer in {folder} needs the package {package}; run pip install {needed}'
        ) from error
    except Exception as error:  # tokenizers raises bare Exceptions
        reason = short(str(error), 200) or type(error).__name__
        raise InputError(f'cannot read the tokenizer in {folder}: {reason}') from error
