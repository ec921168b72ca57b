"""OpenAI's ModifiedResNet.

B: images, N: cells, (h, w): grid of the last stage, C: 32 times the stem width, D: joint space.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from clipdense.layers.batch_norm import statistics_kept
from clipdense.layers.depth import parameter_depths
from clipdense.layers.pos_embed import resize_positions
from clipdense.registry import MODELS
from clipdense.structures import ImageFeatures

from .sizes import ResNetSize

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; downsamples by average pooling, not by a strided convolution."""

    def __init__(self, in_width: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_width = width * EXPANSION
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(width, out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or in_width != out_width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_width, out_width, 1, bias=False), nn.BatchNorm2d(out_width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.pool(F.relu(self.bn2(self.conv2(y))))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(self.pool(x))
        return F.relu(y + shortcut)


class AttentionPool(nn.Module):
    """Attention pooling: the query is the mean of all cells; keys and values are the mean and the cells."""

    def __init__(self, side: int, width: int, num_heads: int, embed_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pos_embed = nn.Parameter(torch.randn(side * side + 1, width) * width**-0.5)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, embed_dim)

    def forward(self, cells: Tensor, positions: Tensor) -> Tensor:
        """(B, N, C), (1 + N, C) -> (B, C), before projection."""
        x = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + positions  # (B, 1 + N, C)
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q(x[:, :1]), self.k(x), self.v(x))
        )
        pooled = F.scaled_dot_product_attention(query, key, value)  # (B, heads, 1, d)
        return pooled.transpose(1, 2).flatten(1)


@MODELS.register_module()
class ModifiedResNet(nn.Module):
    """CLIP's ResNet for images of any size: the pool's position embeddings are resized at run time.

    Args:
        size: widths and depths; or a dict with the fields of ``ResNetSize``.
        position_mode, antialias: how position embeddings are interpolated, see ``resize_positions``.

    Source: openai/CLIP clip/model.py ``ModifiedResNet``, ``AttentionPool2d``.
    """

    kind = 'resnet'
    patch_size = 32  # side of a cell of the last stage in pixels

    def __init__(
        self, size: ResNetSize | dict, *, position_mode: str = 'bicubic', antialias: bool = True
    ) -> None:
        super().__init__()
        self.size = size = ResNetSize(**size) if isinstance(size, dict) else size
        self.position_mode, self.antialias = position_mode, antialias
        self.gradient_checkpointing = False
        width = size.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        channels = width
        for stage, depth in enumerate(size.layers):
            stage_width = width * 2**stage
            blocks = [Bottleneck(channels, stage_width, stride=1 if stage == 0 else 2)]
            channels = stage_width * EXPANSION
            blocks += [Bottleneck(channels, stage_width) for _ in range(depth - 1)]
            self.add_module(f'layer{stage + 1}', nn.Sequential(*blocks))
        self.attn_pool = AttentionPool(size.image_size // 32, channels, size.num_heads, size.embed_dim)
        self.reset_parameters()

    @property
    def config(self) -> dict[str, Any]:
        """Config that builds this module with new weights."""
        options = {'position_mode': self.position_mode, 'antialias': self.antialias}
        return {'type': type(self), 'size': asdict(self.size), **options}

    def parameter_depths(self) -> dict[str, int]:
        """0 for the stem, 1 + i for block i of all stages, then the attention pool with the projection."""
        blocks = [
            f'layer{stage}.{block}'
            for stage, depth in enumerate(self.size.layers, start=1)
            for block in range(depth)
        ]
        stem = [f'{part}{index}' for index in (1, 2, 3) for part in ('conv', 'bn')]
        return parameter_depths(self, blocks, first=stem)

    def reset_parameters(self) -> None:
        """OpenAI's initialization: the pool from N(0, 1/C), the last norm of each block zero."""
        std = self.attn_pool.q.in_features**-0.5
        for linear in (self.attn_pool.q, self.attn_pool.k, self.attn_pool.v, self.attn_pool.proj):
            nn.init.normal_(linear.weight, std=std)
        for block in self._blocks():
            nn.init.zeros_(block.bn3.weight)

    def forward(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W), normalized -> pooled (B, C), cells of the last stage (B, N, C)."""
        x = self.stem(images)  # (B, width, H / 4, W / 4)
        for block in self._blocks():
            x = self._run(block, x)  # finally (B, C, h, w)
        grid = (x.shape[-2], x.shape[-1])
        cells = x.flatten(2).mT  # (B, N, C)
        return ImageFeatures(self.attn_pool(cells, self.positions(grid).to(cells.dtype)), cells, grid)

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized -> the pooled features (B, C) of ``forward``."""
        return self(images).pooled

    def stem(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width, H / 4, W / 4).

        Raises:
            ValueError: images smaller than one cell of the last stage.
        """
        if min(images.shape[-2:]) < self.patch_size:
            raise ValueError(
                f'images of {tuple(images.shape[-2:])} pixels are too small: at least 32 x 32 are needed'
            )
        images = images.to(self.conv1.weight.dtype)
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """(1 + h * w, C) position embeddings for a grid."""
        return resize_positions(
            self.attn_pool.pos_embed, grid, mode=self.position_mode, antialias=self.antialias
        )

    def project(self, pooled: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        return self.attn_pool.proj(pooled)

    def project_patches(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Cells (B, N, C) -> embeddings (B, D, h, w) by the value path of the pool, for each cell."""
        return self.project(self.attn_pool.v(tokens)).mT.unflatten(2, grid)

    def _blocks(self) -> Iterator[Bottleneck]:
        for stage in range(1, 5):
            yield from getattr(self, f'layer{stage}')

    def _run(self, block: Bottleneck, x: Tensor) -> Tensor:
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return block(x)
        return checkpoint(
            block,
            x,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), statistics_kept(block)),
        )
