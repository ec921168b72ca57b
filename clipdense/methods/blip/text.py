"""The text transformer: one stack of layers that encodes a text alone, reads an image, or generates.

B: texts, L: tokens, S: tokens of the image, W: their width, C: width of the text, d: head width, V: ids,
P: tokens that are in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.attention import MLP, SelfAttention
from clipdense.tasks.generation import DecoderIds
from clipdense.utils.errors import InputError

from .sizes import MedSize

KeysValues = tuple[Tensor, Tensor]  # (B, heads, S, d) each


class Context(NamedTuple):
    """What the cross-attention of each layer reads, computed once for any number of texts."""

    layers: list[KeysValues]
    allowed: Tensor | None = None  # (B, 1, 1, S), True where tokens are not padding; None: everywhere

    def row(self, index: Tensor) -> Context:
        """The context of the texts of these images, (B',)."""
        allowed = None if self.allowed is None else self.allowed[index]
        return Context([(key[index], value[index]) for key, value in self.layers], allowed)


class SelfBlock(nn.Module):
    """x = norm(x + attention(x)); the only part that encoder and decoder do not share."""

    def __init__(self, size: MedSize) -> None:
        super().__init__()
        self.attn = SelfAttention(size.width, size.num_heads)
        self.norm = nn.LayerNorm(size.width, size.eps)
        self.dropout = size.dropout

    def forward(
        self, x: Tensor, allowed: Tensor | None, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """(B, L, C), (B, 1, L, P + L) -> (B, L, C), and keys and values (B, heads, P + L, d)."""
        query, key, value = self.attn.split(x)  # (B, heads, L, d)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        mixed = F.scaled_dot_product_attention(query, key, value, allowed, self.dropout * self.training)
        mixed = F.dropout(self.attn.merge(mixed), self.dropout, self.training)  # (B, L, C)
        return self.norm(x + mixed), (key, value)


class CrossBlock(nn.Module):
    """x = norm(x + attention(x, context))."""

    def __init__(self, size: MedSize, context_width: int) -> None:
        super().__init__()
        self.num_heads, self.dropout = size.num_heads, size.dropout
        self.q = nn.Linear(size.width, size.width)
        self.kv = nn.Linear(context_width, 2 * size.width)
        self.proj = nn.Linear(size.width, size.width)
        self.norm = nn.LayerNorm(size.width, size.eps)

    def read(self, tokens: Tensor) -> KeysValues:
        """(B, S, W) -> keys and values, (B, heads, S, d) each."""
        key, value = self.kv(tokens).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return key, value

    def forward(self, x: Tensor, context: KeysValues, allowed: Tensor | None) -> Tensor:
        """(B, L, C) -> (B, L, C).  Texts of one image are consecutive; then the context has fewer rows."""
        key, value = context
        query = self._query(x, key)  # (images, heads, texts of an image * L, d)
        mixed = F.scaled_dot_product_attention(query, key, value, allowed, self.dropout * self.training)
        return self.merge(x, mixed)

    def attention(self, x: Tensor, key: Tensor) -> Tensor:
        """(B, L, C), keys (images, heads, S, d) -> attention (images, heads, texts of an image * L, S)."""
        query = self._query(x, key)
        return (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)

    def merge(self, x: Tensor, mixed: Tensor) -> Tensor:
        """(B, L, C) and what it has read (images, heads, texts of an image * L, d) -> (B, L, C)."""
        mixed = self.proj(mixed.transpose(1, 2).reshape(x.shape))  # (B, L, C)
        return self.norm(x + F.dropout(mixed, self.dropout, self.training))

    def _query(self, x: Tensor, key: Tensor) -> Tensor:
        """Texts of one image are consecutive, so that its keys need not be repeated."""
        return self.q(x).view(key.shape[0], -1, self.num_heads, key.shape[-1]).transpose(1, 2)


class FeedForward(nn.Module):
    """x = norm(x + mlp(x))."""

    def __init__(self, size: MedSize) -> None:
        super().__init__()
        self.mlp = MLP(size.width, size.mlp_width, 'gelu')
        self.norm = nn.LayerNorm(size.width, size.eps)
        self.dropout = size.dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        return self.norm(x + F.dropout(self.mlp(x), self.dropout, self.training))


class MedLayer(nn.Module):
    """Self-attention, cross-attention where there is a context, feed-forward.

    Args:
        size: of the stack.
        context_width: W.
        share: a layer whose cross-attention and feed-forward part are used.
    """

    def __init__(self, size: MedSize, context_width: int, share: MedLayer | None = None) -> None:
        super().__init__()
        self.self_attn = SelfBlock(size)
        self.cross: CrossBlock = CrossBlock(size, context_width) if share is None else share.cross
        self.feed: FeedForward = FeedForward(size) if share is None else share.feed


class Embedding(nn.Module):
    """Words and positions, normalized."""

    def __init__(self, size: MedSize) -> None:
        super().__init__()
        self.words = nn.Embedding(size.vocab_size, size.width)
        self.positions = nn.Embedding(size.context_length, size.width)
        self.norm = nn.LayerNorm(size.width, size.eps)
        self.dropout = size.dropout

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """(B, L) -> (B, L, C); ``start`` is the position of the first id.

        Raises:
            InputError: a text that is longer than the positions.
        """
        stop, most = start + ids.shape[1], self.positions.num_embeddings
        if stop > most:
            raise InputError(f'a text of {stop} tokens is longer than the {most} positions of the model')
        x = self.norm(self.words(ids) + self.positions.weight[start:stop])
        return F.dropout(x, self.dropout, self.training)


class Med(nn.Module):
    """The stack: a text alone, with an image, or causally with an image, by the same layers.

    Args:
        size: of the stack, or a dict of its fields.
        context_width: W of what the cross-attention reads.
        share: an encoder; embeddings, cross-attention and feed-forward parts are its own modules then.

    Source: arXiv 2201.12086, figure 2; salesforce/BLIP models/med.py.
    """

    def __init__(self, size: MedSize | dict, context_width: int, share: Med | None = None) -> None:
        super().__init__()
        self.size = size = MedSize(**size) if isinstance(size, dict) else size
        self.context_width = context_width
        self.embed: Embedding = Embedding(size) if share is None else share.embed
        theirs = [None] * size.layers if share is None else list(share.layers)
        self.layers: Any = nn.ModuleList(MedLayer(size, context_width, layer) for layer in theirs)
        self.apply(_initialize)

    def read(self, tokens: Tensor, keep: Tensor | None = None) -> Context:
        """Tokens of images or of questions (B, S, W), mask (B, S) -> what the cross-attentions read."""
        allowed = None if keep is None else keep.bool()[:, None, None]  # (B, 1, 1, S)
        return Context([layer.cross.read(tokens) for layer in self.layers], allowed)

    def forward(
        self,
        ids: Tensor,
        keep: Tensor | None = None,
        context: Context | None = None,
        causal: bool = False,
    ) -> Tensor:
        """(B, L), mask (B, L), context of B texts or of fewer images -> (B, L, C).

        Args:
            ids: of the texts.
            keep: 1 for tokens, 0 for padding; None: no padding.
            context: of ``read``; None for the text alone.
            causal: a token attends to itself and earlier tokens.
        """
        return self._run(self.embed(ids), attention_mask(ids, keep, causal), context)[0]

    def run(
        self, x: Tensor, allowed: Tensor | None, context: Context, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """Some of the layers: (B, L, C), mask of ``attention_mask`` -> (B, L, C)."""
        for layer, read in list(zip(self.layers, context.layers, strict=True))[start:stop]:
            x = layer.self_attn(x, allowed)[0]
            x = layer.feed(layer.cross(x, read, context.allowed))
        return x

    def step(
        self, ids: Tensor, context: Context | None, past: Sequence[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """The next ids of texts (B, L), causally -> (B, L, C), and the cache (B, heads, P + L, d)."""
        start = 0 if past is None else past[0][0].shape[2]
        length = ids.shape[1]
        allowed = None
        if length > 1:
            allowed = torch.ones(length, start + length, dtype=torch.bool, device=ids.device).tril(start)
        return self._run(self.embed(ids, start), allowed, context, past)

    def _run(
        self,
        x: Tensor,
        allowed: Tensor | None,
        context: Context | None,
        past: Sequence[KeysValues] | None = None,
    ) -> tuple[Tensor, list[KeysValues]]:
        cache = []
        for index, layer in enumerate(self.layers):
            x, now = layer.self_attn(x, allowed, None if past is None else past[index])  # (B, L, C)
            if context is not None:
                x = layer.cross(x, context.layers[index], context.allowed)  # (B, L, C)
            x = layer.feed(x)  # (B, L, C)
            cache.append(now)
        return x, cache


class LmHead(nn.Module):
    """Scores of all ids; the last projection is the word embedding.

    Args:
        size: of the stack.
    """

    def __init__(self, size: MedSize) -> None:
        super().__init__()
        self.dense = nn.Linear(size.width, size.width)
        self.norm = nn.LayerNorm(size.width, size.eps)
        self.bias = nn.Parameter(torch.zeros(size.vocab_size))
        self.apply(_initialize)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """(..., C), (V, C) -> (..., V)."""
        return F.linear(self.norm(F.gelu(self.dense(x))), words, self.bias)


class MedDecoder(Med):
    """A stack with scores of the next id, a ``tasks.generation.TextDecoder``.

    Args:
        size, context_width, share: see ``Med``.
    """

    def __init__(self, size: MedSize | dict, context_width: int, share: Med | None = None) -> None:
        super().__init__(size, context_width, share)
        self.head = LmHead(self.size)

    @property
    def ids(self) -> DecoderIds:
        """See ``tasks.generation.TextDecoder``."""
        size = self.size
        return DecoderIds(size.vocab_size, size.context_length, size.ids.sep, size.ids.pad)

    def scores(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., V)."""
        return self.head(x, self.embed.words.weight)


def attention_mask(ids: Tensor, keep: Tensor | None, causal: bool) -> Tensor | None:
    """(B, 1, L, L) or (B, 1, 1, L), True where a token (third axis) attends to another (fourth axis)."""
    allowed = None if keep is None else keep.bool()[:, None, None]  # (B, 1, 1, L)
    if not causal:
        return allowed
    length = ids.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    return earlier if allowed is None else allowed & earlier


def _initialize(module: nn.Module) -> None:
    """BERT's: N(0, 0.02), zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
