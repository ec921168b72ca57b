"""Dense embeddings from the last attention of an image tower.

B: images or windows, N: patches, P: tokens before the first patch, T: P + N, (h, w): patch grid, C: width,
d: head width, D: joint space.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from .resnet import ModifiedResNet
from .timm_tower import TimmImageTower
from .vit import VisionTransformer

AttentionTower = VisionTransformer | ModifiedResNet  # their last attention can be taken apart
Tower = AttentionTower | TimmImageTower
Grid = tuple[int, int]


def feature_width(tower: Tower) -> int:
    """C, the width of ``tower.pooled``."""
    if isinstance(tower, TimmImageTower):
        return int(tower.trunk.head_hidden_size)
    if isinstance(tower, ModifiedResNet):
        return tower.attn_pool.q.in_features
    return int(tower.norm_post.normalized_shape[0])


class LastAttention:
    """The last block of a transformer: queries, keys and values, and the projection of its output.

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
        """Attention output, softmax(query key / sqrt(d) + bias) value: (B, heads, T, d)."""
        return F.scaled_dot_product_attention(query, key, self.value, attn_mask=bias)

    def embed(self, mixed: Tensor, residual: bool = False, grid: Grid | None = None) -> Tensor:
        """Attention output (B, heads, T, d) -> pixel embeddings (B, D, h, w), not normalized.

        Args:
            mixed: (B, heads, T, d).
            residual: continue as in training: add the input of the block, then its feed-forward part.
            grid: of the attention output, if different from the tower's.
        """
        grid = grid or self.grid
        return self.vit.project_patches(patches(self.tokens(mixed, residual), grid), grid)

    def tokens(self, mixed: Tensor, residual: bool = False) -> Tensor:
        """Attention output (B, heads, T, d) -> output tokens of the block (B, T, C)."""
        block = self.vit.blocks[-1]
        x = block.attn.merge(mixed)  # (B, T, C)
        if residual:
            x = self.x + x
            x = x + block.mlp(block.norm2(x))
        return x

    def pooled(self) -> Tensor:
        """The image embedding (B, D), as in training."""
        return self.vit.project(self.vit.pool_tokens(self.vit.blocks[-1](self.x)))


class PoolAttention(LastAttention):
    """The attention pool of a ResNet, with a query for every cell instead of one for the mean of all cells.

    It has neither residual nor feed-forward part.

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
            part(tokens).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for part in (pool.q, pool.k, pool.v)
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


def encode_dense(tower: Tower, images: Tensor) -> Tensor:
    """(B, 3, H, W) -> pixel embeddings (B, D, h, w), not normalized: every patch attends to itself only.

    * A ViT: the value path of the last block, without its residual and feed-forward part, then the final norm
      and projection (MaskCLIP as ClearCLIP simplifies it).
    * A ViT that pools with a query (SigLIP) has no projection; the patches then take the value path of the
      pool: value, output projection, feed-forward residual.
    * A ResNet: the value and output projections of the attention pool, without position embeddings, applied
      to the last stage (MaskCLIP's released code).
    * A tower of timm: see ``TimmImageTower.encode_dense``.

    Source: Zhou et al., Extract Free Dense Labels from CLIP (arXiv 2112.01071), section 3.1.
    """
    if isinstance(tower, TimmImageTower):
        return tower.encode_dense(images)
    if isinstance(tower, ModifiedResNet):
        features = tower(images)
        return tower.project_patches(features.patch_tokens, features.grid)
    last = last_attention(tower, images)
    return last.embed(last.value)


def last_attention(tower: AttentionTower, images: Tensor) -> LastAttention:
    """Run a tower on images (B, 3, H, W) up to its last attention."""
    if isinstance(tower, ModifiedResNet):
        features = tower(images)
        return PoolAttention(tower, features.patch_tokens, features.grid)
    inputs, grid = tower.forward_layers(images, [-1])
    return LastAttention(tower, inputs[-1], grid)


def patches(tokens: Tensor, grid: Grid) -> Tensor:
    """The patch tokens (B, N, C) of (B, T, C), which come last."""
    return tokens[:, -prod(grid) :]
