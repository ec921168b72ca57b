"""The context decoder: class embeddings attend to an image.

B: images, K: classes, N: local embeddings, D: joint space, C: width of the decoder.

Source: DenseCLIP section 3.3 (post-model prompting); raoyongming/DenseCLIP
``segmentation/denseclip/models.py`` ``ContextDecoder``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.utils.errors import InputError


class Attention(nn.Module):
    """Multi-head attention with separate projections, without biases but at the output."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """(B, K, C) attends to (B, M, C) -> (B, K, C)."""
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q(x), self.k(memory), self.v(memory))
        )  # (B, heads, ., d)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.dropout(self.proj(mixed))


class DecoderLayer(nn.Module):
    """Classes attend to each other, then to the image; the memory is not normalized again.

    Args:
        width: C.
        num_heads: attention heads.
        dropout: of the three residual branches, in training.
        class_attention: whether classes attend to each other.
    """

    def __init__(self, width: int, num_heads: int, dropout: float, class_attention: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width) if class_attention else None
        self.self_attn = Attention(width, num_heads, dropout) if class_attention else None
        self.norm2 = nn.LayerNorm(width)
        self.cross_attn = Attention(width, num_heads, dropout)
        self.norm3 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """(B, K, C), (B, 1 + N, C) -> (B, K, C)."""
        if self.self_attn is not None and self.norm1 is not None:
            y = self.norm1(x)
            x = x + self.self_attn(y, y)
        x = x + self.cross_attn(self.norm2(x), memory)
        hidden = self.dropout(F.gelu(self.fc1(self.norm3(x))))
        return x + self.dropout(self.fc2(hidden))


class ContextDecoder(nn.Module):
    """The change of class embeddings for an image.

    Args:
        embed_dim: D.
        width: C.
        layers: number of layers.
        num_heads: attention heads.
        dropout: in training.
        class_attention: whether classes attend to each other; without it the result for a class does not
            depend on the other ones.

    Raises:
        InputError: a width that the heads do not divide.
    """

    def __init__(
        self,
        embed_dim: int,
        width: int = 256,
        layers: int = 3,
        num_heads: int = 4,
        dropout: float = 0.1,
        class_attention: bool = True,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise InputError(
                f'the width of the context decoder, {width}, is not divisible by {num_heads} heads'
            )
        self.memory = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, width), nn.LayerNorm(width))
        self.query = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, width))
        self.layers: Any = nn.ModuleList(
            DecoderLayer(width, num_heads, dropout, class_attention) for _ in range(layers)
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, embed_dim))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, text: Tensor, pooled: Tensor, local: Tensor) -> Tensor:
        """Class embeddings (B, K, D), image (B, D) and local embeddings (B, D, h, w) -> (B, K, D)."""
        image = torch.cat([pooled[:, None], local.flatten(2).mT], dim=1)  # (B, 1 + N, D)
        memory = self.memory(image)  # (B, 1 + N, C)
        x = self.query(text)  # (B, K, C)
        for layer in self.layers:
            x = layer(x, memory)
        return self.out(x)


def score_map(local: Tensor, text: Tensor) -> Tensor:
    """Cosines of local embeddings (B, D, h, w) and class embeddings (B, K, D) -> (B, K, h, w)."""
    return torch.einsum('bdhw,bkd->bkhw', F.normalize(local, dim=1), F.normalize(text, dim=-1))
