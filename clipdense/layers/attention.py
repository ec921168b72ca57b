"""Attention.  B: sequences, N: tokens, C: width, d: head width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .activations import activation as make_activation
from .packing import Packing


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

    def attend(self, x: Tensor, causal: bool = False, packing: Packing | None = None) -> Tensor:
        """(B, N, C), or (T, C) with a packing -> the same shape, before the output projection."""
        qkv = self.qkv(x)
        if packing is not None:
            qkv = packing.unpack(qkv)
        query, key, value = self._heads(qkv)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        mixed = mixed.transpose(1, 2).flatten(2)  # (B, N, C)
        return mixed if packing is None else packing.pack(mixed)

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
        query = self.q(self.query).view(1, self.num_heads, 1, -1)  # (1, heads, 1, d)
        query = query.expand(len(x), -1, -1, -1)  # (B, heads, 1, d)
        key, value = self.kv(x).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        pooled = F.scaled_dot_product_attention(query, key, value)  # (B, heads, 1, d)
        pooled = self.proj(pooled.flatten(1))  # (B, C)
        return pooled + self.mlp(self.norm(pooled))
