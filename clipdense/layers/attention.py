"""Attention.  B: sequences, N: tokens, C: width, d: head width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .activations import activation as make_activation
from .packing import Packing

KeysValues = tuple[Tensor, Tensor]  # (B, heads, N, d) each


def causal_mask(count: int, before: int = 0, device: torch.device | str | None = None) -> Tensor:
    """(N, P + N), True where one of N tokens (first axis) attends to itself or an earlier one (second axis).

    Args:
        count: N.
        before: P, tokens before them.
        device: of the mask.
    """
    return torch.ones(count, before + count, dtype=torch.bool, device=device).tril(before)


def with_past(key: Tensor, value: Tensor, past: KeysValues | None) -> KeysValues:
    """Keys and values of new tokens after those of the tokens before them."""
    if past is None:
        return key, value
    return torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection, rows in the order query, key, value."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f'width {width} is not divisible by {num_heads} attention heads')
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> query, key and value, each (B, heads, N, d)."""
        return self._heads(self.qkv(x))

    def merge(self, x: Tensor) -> Tensor:
        """(B, heads, N, d) -> (B, N, C), through the output projection."""
        return self.proj(x.transpose(1, 2).flatten(2))

    def attend(
        self, x: Tensor, causal: bool = False, packing: Packing | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(B, N, C), or (T, C) with a packing -> the same shape, before the output projection.

        A mask (B, N, N) is True where a token (second axis) attends to another (third axis).
        """
        qkv = self.qkv(x)
        if packing is not None:
            qkv = packing.unpack(qkv)
        query, key, value = self._heads(qkv)
        allowed = None if mask is None else mask[:, None]  # (B, 1, N, N)
        mixed = F.scaled_dot_product_attention(query, key, value, allowed, is_causal=causal)
        mixed = mixed.transpose(1, 2).flatten(2)  # (B, N, C)
        return mixed if packing is None else packing.pack(mixed)

    def step(self, x: Tensor, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        """The next tokens of sequences (B, N, C), causally -> the same shape, and all keys and values."""
        query, key, value = self.split(x)
        count = query.shape[2]
        key, value = with_past(key, value, past)
        allowed = None if count == 1 else causal_mask(count, key.shape[2] - count, x.device)
        return self.merge(F.scaled_dot_product_attention(query, key, value, allowed)), (key, value)

    def forward(self, x: Tensor, causal: bool = False, packing: Packing | None = None) -> Tensor:
        """(B, N, C), or (T, C) with a packing -> the same shape."""
        return self.proj(self.attend(x, causal, packing))

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value


class MLP(nn.Module):
    """The feed-forward part of a block."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = make_activation(activation)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class QueryPool(nn.Module):
    """SigLIP's attention pooling: a learned query attends to all tokens; then a residual MLP.

    Args:
        width: C.
        num_heads: attention heads.
        mlp_width: of the hidden layer.
        activation: of the MLP.
        eps: of the normalization.

    Source: big_vision ``MAPHead`` (Zhai et al., Scaling Vision Transformers).
    """

    def __init__(self, width: int, num_heads: int, mlp_width: int, activation: str, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=width**-0.5))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, mlp_width, activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, C)."""
        return self._residual(_ask(self, self.q(self.query), x))

    def values(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C): the pooled features of each token, if it were the only one."""
        return self._residual(self.proj(self.kv(x).chunk(2, dim=-1)[1]))

    def _residual(self, pooled: Tensor) -> Tensor:
        return pooled + self.mlp(self.norm(pooled))


class ContrastivePool(nn.Module):
    """CoCa's attention pooling: a learned query attends to all tokens, both normalized before.

    open_clip's has 256 queries, of which the first gives the image embedding and the others feed the decoder.

    Args:
        width: C of the tokens.
        out_width: D of the query and of the output.
        num_heads: attention heads.
        eps: of the normalizations.

    Source: Yu et al., CoCa (arXiv 2205.01917); open_clip transformer.py ``AttentionalPooler``.
    """

    def __init__(self, width: int, out_width: int, num_heads: int, eps: float) -> None:
        super().__init__()
        if out_width % num_heads:
            raise ValueError(f'width {out_width} is not divisible by {num_heads} attention heads')
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.randn(out_width))
        self.norm_query = nn.LayerNorm(out_width, eps=eps)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.q = nn.Linear(out_width, out_width)
        self.kv = nn.Linear(width, 2 * out_width)
        self.proj = nn.Linear(out_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, D)."""
        return _ask(self, self.q(self.norm_query(self.query)), self.norm(x))

    def values(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., D): the pooled features of each token, if it were the only one."""
        return self.proj(self.kv(self.norm(x)).chunk(2, dim=-1)[1])


def _ask(pool: QueryPool | ContrastivePool, query: Tensor, x: Tensor) -> Tensor:
    """One query (D,) attends to the tokens (B, N, C) of each sequence -> (B, D)."""
    query = query.view(1, pool.num_heads, 1, -1).expand(x.shape[0], -1, -1, -1)  # (B, heads, 1, d)
    key, value = pool.kv(x).unflatten(-1, (2, pool.num_heads, -1)).permute(2, 0, 3, 1, 4)
    pooled = F.scaled_dot_product_attention(query, key, value)  # (B, heads, 1, d)
    return pool.proj(pooled.flatten(1))
