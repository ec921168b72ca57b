"""Texts of classes with room for learned tokens.

K: classes, L: tokens, n: learned context tokens, P: tokens before the first word, C: width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import CLIP
from clipdense.clip.name_tokens import check_tokens
from clipdense.clip.text import TextTransformer, arrange_tokens, end_of_text
from clipdense.clip.tokenizers import LazyTokenizer
from clipdense.utils.errors import InputError
from clipdense.vocab.names import check_name

Position = Literal['end', 'middle', 'front']
WithText = CLIP | FrozenText  # a text tower and its tokenizer
_PLACEHOLDER = 'X'


@dataclass(frozen=True)
class ClassTexts:
    """Token ids of K classes, and where learned tokens stand in them.

    Args:
        names: of the classes.
        token_ids: (K, L); the ids in place of learned tokens have no meaning.
        order: (K, L), which of ``[n learned tokens, L token ids]`` each token of a prompt is.
        eot: (K,), position of the token whose feature is the text's.
    """

    names: tuple[str, ...]
    token_ids: Tensor
    order: Tensor
    eot: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> ClassTexts:
        """The same on a device."""
        if self.eot.device == device:
            return self
        moved = {name: getattr(self, name).to(device) for name in ('token_ids', 'order', 'eot')}
        return replace(self, **moved)

    def assemble(self, context: Tensor, tokens: Tensor) -> Tensor:
        """Learned context (n, C) or (K, n, C) and embeddings of the ids (K, L, C) -> prompts (K, L, C)."""
        return arrange_tokens(context, tokens, self.order)


def class_texts(
    clip: WithText, names: Sequence[str], n_ctx: int, init: str | None, position: Position
) -> ClassTexts:
    """The texts "CONTEXT NAME." of class names, cut after the last end-of-text token if the tower is causal.

    Args:
        clip: a text tower and its tokenizer.
        names: K class names; underscores are read as spaces.
        n_ctx: n.
        init: words of the context, of which the first n tokens are learned; None means n placeholders.
        position: of the context: before the name ('end', since the name ends the text), on both sides of it
            with the smaller half first ('middle'), or after it ('front').

    Raises:
        InputError: no or invalid names, or a text that is longer than the text tower takes.
    """
    names = tuple(check_name(name, 'class name') for name in names)
    if not names:
        raise InputError('no class names: give at least one')
    words = [name.replace('_', ' ') for name in names]
    context = ' '.join([_PLACEHOLDER] * n_ctx) if init is None else init
    texts = [f'{context} {name}.' for name in words]
    encode = word_tokenizer(clip).encode
    _check_lengths(clip, names, texts, len(encode(context)))
    check_tokens(clip.tokenizer, dict(zip(names, texts, strict=True)))
    return _with_room(clip, names, texts, [len(encode(name)) for name in words], n_ctx, position)


def nameless_text(clip: WithText, n_ctx: int) -> ClassTexts:
    """The text of n learned tokens and a full stop, without class name.

    Raises:
        InputError: no tokens, or more than the text tower takes.
    """
    if not isinstance(n_ctx, int) or isinstance(n_ctx, bool) or n_ctx < 1:
        raise InputError(f'n_ctx of a background must be a whole number of at least 1, got {n_ctx!r}')
    text = ' '.join([_PLACEHOLDER] * n_ctx) + '.'
    _check_lengths(clip, ('background',), [text], n_ctx)
    return _with_room(clip, ('',), [text], [0], n_ctx, 'end')


def _with_room(
    clip: WithText,
    names: tuple[str, ...],
    texts: Sequence[str],
    lengths: Sequence[int],
    n_ctx: int,
    position: Position,
) -> ClassTexts:
    """Texts with n placeholders before names of these numbers of tokens."""
    tower, prefix = text_tower(clip), start_tokens(clip)
    token_ids = torch.as_tensor(np.asarray(clip.tokenizer(list(texts))))  # (K, L)
    if tower.flavour.pool == 'last':
        eot = torch.full((len(names),), token_ids.shape[1] - 1)
    else:
        eot = end_of_text(token_ids, tower.size.eos_token_id)
    if tower.flavour.causal and tower.flavour.pool == 'end_of_text':
        token_ids = token_ids[:, : int(eot.max()) + 1]
    length = token_ids.shape[1]
    room = (eot - prefix - n_ctx).tolist()
    lengths = [min(found, most) for found, most in zip(lengths, room, strict=True)]
    orders = {size: _order(position, prefix, n_ctx, size, length) for size in set(lengths)}
    order = torch.tensor([orders[size] for size in lengths])  # (K, L)
    return ClassTexts(names, token_ids, order, eot)


def text_tower(clip: Any) -> TextTransformer:
    """The text tower, if prompts can be learned for it.

    Raises:
        InputError: no text tower, or one of transformers.
    """
    tower = getattr(clip, 'text', None)
    if isinstance(tower, TextTransformer):
        return tower
    if tower is None:
        raise InputError(
            f'learned prompts need a text tower of CLIP, and {type(clip).__name__} has none: give the model '
            'a CLIP (clip=...)'
        )
    kind = getattr(tower.size, 'model_type', type(tower).__name__)
    raise InputError(f'learned prompts need a text tower of CLIP, not a {kind} of transformers')


def word_tokenizer(clip: WithText) -> Any:
    """The tokenizer of a CLIP, which encodes and decodes single words.

    Raises:
        InputError: it cannot, or the weights have none.
    """
    tokenizer: Any = clip.tokenizer
    if not hasattr(tokenizer, 'encode') or not hasattr(tokenizer, 'decode'):
        tokenizer(['a'])  # raises where the weights have none
        raise InputError(
            'learned prompts need a tokenizer with encode(text) and decode(ids), not a '
            f'{type(tokenizer).__name__}'
        )
    return tokenizer


def start_tokens(clip: WithText) -> int:
    """P: 1, or 0 if texts have no start-of-text token (SigLIP)."""
    return len(getattr(_tokenizer(clip), 'prefix', (0,)))


def _tokenizer(clip: WithText) -> Any:
    tokenizer = clip.tokenizer
    return tokenizer.tokenizer if isinstance(tokenizer, LazyTokenizer) else tokenizer


def check_position(position: str) -> None:
    """Refuse an unknown position of the context.

    Raises:
        InputError: naming those that exist.
    """
    if position not in get_args(Position):
        raise InputError(
            f"position must be 'end' (the name ends the text), 'middle' or 'front', got {position!r}"
        )


def _check_lengths(clip: WithText, names: Sequence[str], texts: Sequence[str], context: int) -> None:
    """Refuse texts that would be cut.

    Raises:
        InputError: naming the class with the longest text.
    """
    most, encode = clip.text.size.context_length, word_tokenizer(clip).encode
    special = most - getattr(_tokenizer(clip), 'room', most - 2)  # tokens that begin and end a text
    needed, name = max((len(encode(text)) + special, name) for name, text in zip(names, texts, strict=True))
    if needed > most:
        raise InputError(
            f'the prompt of {name!r:.80} has {needed} tokens, {context} of them context; the text tower '
            f'takes {most}: use a smaller n_ctx or a shorter name'
        )


def _order(position: Position, prefix: int, n_ctx: int, name: int, length: int) -> list[int]:
    """The order of a text: 0 .. n - 1 are learned, n .. n + L - 1 are the L token ids."""
    first, context = n_ctx, list(range(n_ctx))
    start = list(range(first, first + prefix))
    body = first + prefix + n_ctx  # the name, a full stop, end-of-text, padding
    of_name, rest = list(range(body, body + name)), list(range(body + name, first + length))
    half = {'end': n_ctx, 'middle': n_ctx // 2, 'front': 0}[position]
    return [*start, *context[:half], *of_name, *context[half:], *rest]
