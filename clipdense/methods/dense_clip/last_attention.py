"""The last attention of an image tower, taken apart.

B: windows, N: patches, P: tokens before the first patch, T: P + N, (h, w): patch grid, C: width, d: width of
a head, D: joint space.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.resnet import ModifiedResNet
from clipdense.clip.vit import VisionTransformer

Tower = VisionTransformer | ModifiedResNet
Grid = tuple[int, int]


class LastAttention:
    """A transformer's last block: its queries, keys and values, and the way from its output to embeddings.

    Args:
        vit: the tower.
        x: (B, T, C) input of the last block.
        grid: (h, w).
    """

    def __init__(self, vit: VisionTransformer, x: Tensor, grid: Grid) -> None:
        self.vit, self.x, self.grid, self.prefix = vit, x, grid, vit.prefix
        block = vit.blocks[-1]
        self.query, self.key, self.value = block.attn.split(block.norm1(x))  # (B, heads, T, d)

    def attend(self, query: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
        """The values mixed by softmax(query key / sqrt(d) + bias): (B, heads, T, d)."""
        return F.scaled_dot_product_attention(query, key, self.value, attn_mask=bias)

    def embed(self, mixed: Tensor, residual: bool = False, grid: Grid | None = None) -> Tensor:
        """Mixed values (B, heads, T, d) -> pixel embeddings (B, D, h, w), not normalised.

        Args:
            mixed: (B, heads, T, d).
            residual: go on as the block was trained: add its input, then its feed-forward half.
            grid: of the mixed values, where it is not the tower's.
        """
        grid = grid or self.grid
        return self.vit.project_patches(patches(self.tokens(mixed, residual), grid), grid)

    def tokens(self, mixed: Tensor, residual: bool = False) -> Tensor:
        """Mixed values (B, heads, T, d) -> tokens behind the block (B, T, C)."""
        block = self.vit.blocks[-1]
        x = block.attn.merge(mixed)  # (B, T, C)
        if residual:
            x = self.x + x
            x = x + block.mlp(block.norm2(x))
        return x

    def pooled(self) -> Tensor:
        """(B, D): the image's embedding, as the tower was trained to give it."""
        return self.vit.project(self.vit.pool_tokens(self.vit.blocks[-1](self.x)))


class PoolAttention(LastAttention):
    """A ResNet's attention pool, every cell asking as the mean of all cells was trained to ask.

    It has neither residual nor feed-forward half.

    Args:
        resnet: the tower.
        cells: (B, N, C) of the last stage.
        grid: (h, w).
    """

    def __init__(self, resnet: ModifiedResNet, cells: Tensor, grid: Grid) -> None:
        self.resnet, self.grid, self.prefix = resnet, grid, 1
        pool = resnet.attn_pool
        tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
        tokens = tokens + resnet.positions(grid).to(cells.dtype)  # (B, T, C)
        self.query, self.key, self.value = (
            part(tokens).unflatten(-1, (pool.heads, -1)).transpose(1, 2) for part in (pool.q, pool.k, pool.v)
        )

    def embed(self, mixed: Tensor, residual: bool = False, grid: Grid | None = None) -> Tensor:
        """(B, heads, T, d) -> (B, D, h, w)."""
        grid = grid or self.grid
        x = self.resnet.project(mixed.transpose(1, 2).flatten(2))  # (B, T, D)
        return patches(x, grid).mT.unflatten(2, grid)

    def pooled(self) -> Tensor:
        """(B, D)."""
        mixed = self.attend(self.query[:, :, :1], self.key)  # (B, heads, 1, d)
        return self.resnet.project(mixed.flatten(1))


def last_attention(tower: Tower, images: Tensor) -> LastAttention:
    """(B, 3, H, W) through a tower up to its last attention."""
    if isinstance(tower, ModifiedResNet):
        features = tower(images)
        return PoolAttention(tower, features.patch_tokens, features.grid)
    inputs, grid = tower.forward_layers(images, [-1])
    return LastAttention(tower, inputs[-1], grid)


def patches(tokens: Tensor, grid: Grid) -> Tensor:
    """(B, T, C) -> (B, N, C): they come last."""
    return tokens[:, -prod(grid) :]


def like_with_like(x: Tensor) -> Tensor:
    """(B, heads, T, d) -> (B, heads, T, T): products of its own tokens, scaled as attention scales them."""
    return x @ x.mT * x.shape[-1] ** -0.5


def cosine_map(x: Tensor) -> Tensor:
    """(B, N, C) -> (B, N, N): cosine of each with each."""
    x = F.normalize(x, dim=-1)
    return x @ x.mT


def attend_to_alike(alike: Tensor, beta: float, gamma: float) -> Tensor:
    """Cosines (B, N, N) -> attention (B, N, N): those under beta times the mean are shut out, but the best.

    The mean is each image's own; the released codes, of ProxyCLIP and SC-CLIP, see one image at a time.
    """
    logits = (alike - beta * alike.mean(dim=(1, 2), keepdim=True)) * gamma
    lowest = logits.amax(dim=-1, keepdim=True).clamp(max=0)  # where all are alike, none is above the mean
    return logits.masked_fill(logits < lowest, float('-inf')).softmax(dim=-1)


def neighbourhood(grid: Grid, std: float, prefix: int, like: Tensor) -> Tensor:
    """(T, T) of the device and dtype of ``like``: exp(-distance^2 / (2 std^2)) between patches, 0 for others.

    Args:
        grid: (h, w).
        std: in patches.
        prefix: P.
        like: any tensor.

    Source: NACLIP ``gaussian_window`` and ``get_attention_addition``.
    """
    rows, columns = (torch.arange(side, device=like.device, dtype=like.dtype) for side in grid)
    row, column = ((-((line[:, None] - line) ** 2) / (2 * std**2)).exp() for line in (rows, columns))
    nearness = torch.kron(row, column)  # (N, N): the Gaussian of two directions is the product of both
    return F.pad(nearness, (prefix, 0, prefix, 0))
