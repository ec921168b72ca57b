"""Vision transformer.

B: images, N: patches, (h, w): patch grid, C: width, D: joint space, P: tokens before the first patch, of
them n learned prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.layers.attention import ContrastivePool, QueryPool
from clipdense.layers.depth import parameter_depths
from clipdense.layers.pos_embed import patch_tokens, resize_positions
from clipdense.layers.stochastic_depth import depth_rates
from clipdense.layers.transformer import Block, replace_tokens, run_blocks
from clipdense.registry import MODELS
from clipdense.structures import ImageFeatures
from clipdense.utils.errors import InputError

from .flavours import VIT_FLAVOURS
from .sizes import VitSize


@MODELS.register_module()
class VisionTransformer(nn.Module):
    """CLIP's ViT for images of any size: position embeddings are resized at run time.

    Args:
        size: widths and depths; or a dict with the fields of ``VitSize``.
        patch_dropout: fraction of the patches that is dropped in training (FLIP, arXiv 2212.00794).
        drop_path: stochastic depth of the last block in training, see ``set_drop_path``.
        position_mode, antialias: how position embeddings are interpolated, see ``resize_positions``.

    Source: openai/CLIP clip/model.py ``VisionTransformer``; timm for the flavours 'slip' and 'siglip'.
    """

    kind = 'vit'

    def __init__(
        self,
        size: VitSize | dict,
        *,
        patch_dropout: float = 0.0,
        drop_path: float = 0.0,
        position_mode: str = 'bicubic',
        antialias: bool = True,
    ) -> None:
        super().__init__()
        self.size = size = VitSize(**size) if isinstance(size, dict) else size
        if not 0 <= patch_dropout < 1:
            raise ValueError(f'patch_dropout must be a fraction in [0, 1), got {patch_dropout}')
        self.flavour = flavour = VIT_FLAVOURS[size.flavour]
        self.patch_dropout = patch_dropout
        self.position_mode, self.antialias = position_mode, antialias
        self.gradient_checkpointing = False
        self._prompts: tuple[Tensor, ...] = ()

        width, eps = size.width, flavour.eps
        tokens = (size.image_size // size.patch_size) ** 2 + int(flavour.class_token)
        self.patch_embed = nn.Conv2d(3, width, size.patch_size, size.patch_size, bias=flavour.patch_bias)
        self.class_token = nn.Parameter(torch.empty(width)) if flavour.class_token else None
        self.pos_embed = nn.Parameter(torch.empty(tokens, width))
        self.norm_pre = nn.LayerNorm(width, eps=eps) if flavour.norm_pre else nn.Identity()
        self.blocks: Any = nn.ModuleList(
            Block(width, size.num_heads, size.mlp_width, size.activation, eps) for _ in range(size.layers)
        )
        self.set_drop_path(drop_path)
        self.pool: QueryPool | ContrastivePool | None = None
        if flavour.pool == 'query':
            self.pool = QueryPool(width, size.num_heads, size.mlp_width, size.activation, eps)
        elif flavour.pool == 'contrastive':
            self.pool = ContrastivePool(width, size.embed_dim, flavour.pool_heads, eps)
            width = size.embed_dim
        self.norm_post = nn.LayerNorm(width, eps=eps)
        self.proj = None if flavour.pool == 'query' else nn.Parameter(torch.empty(width, size.embed_dim))
        self.reset_parameters()

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.size.patch_size

    @property
    def prefix(self) -> int:
        """P: the class token, and the prompts of ``prompted``."""
        return int(self.flavour.class_token) + (len(self._prompts[0]) if self._prompts else 0)

    @contextmanager
    def prompted(self, prompts: Sequence[Tensor]) -> Iterator[None]:
        """Add learned tokens to every image that is encoded in this context (visual prompt tuning, MaPLe).

        They stand between the class token and the patches, and have no position embedding.  Where they stand
        makes no difference to the attention; every reader finds the patches at the end.

        Args:
            prompts: entry i, (n, C), is the input of block i, where it replaces what block i - 1 made of
                entry i - 1.  The first passes the norm before the blocks.  None: nothing is added.

        Raises:
            InputError: more entries than blocks, another width, or entries of several lengths.
        """
        prompts = tuple(prompts)
        width, depth = self.size.width, len(self.blocks)
        shapes = {tuple(entry.shape) for entry in prompts}
        if len(prompts) > depth or len(shapes) > 1 or any(shape[1:] != (width,) for shape in shapes):
            raise InputError(
                f'image prompts must be at most {depth} tensors of one shape (n, {width}), got '
                f'{[tuple(entry.shape) for entry in prompts]}'
            )
        before, self._prompts = self._prompts, prompts
        try:
            yield
        finally:
            self._prompts = before

    @property
    def config(self) -> dict[str, Any]:
        """Config that builds this module with new weights."""
        names = ('patch_dropout', 'drop_path', 'position_mode', 'antialias')
        return {
            'type': type(self),
            'size': asdict(self.size),
            **{name: getattr(self, name) for name in names},
        }

    def set_drop_path(self, rate: float) -> None:
        """Leave out branches of blocks at random in training (stochastic depth), for whole images.

        Args:
            rate: share of the images whose branches of the last block are left out; it grows linearly from 0
                along the blocks.

        Raises:
            InputError: a rate that is not in [0, 1).
        """
        for block, own in zip(self.blocks, depth_rates(rate, len(self.blocks)), strict=True):
            block.drop_path = own
        self.drop_path = rate

    def parameter_depths(self) -> dict[str, int]:
        """0 for what embeds patches, 1 + i for block i, then pool, last norm and projection."""
        blocks = [f'blocks.{index}' for index in range(len(self.blocks))]
        return parameter_depths(self, blocks, first=('patch_embed', 'class_token', 'pos_embed', 'norm_pre'))

    def reset_parameters(self) -> None:
        """OpenAI's initialization: N(0, 1/C) for token, positions, projection; PyTorch's in the blocks."""
        std = self.size.width**-0.5
        for parameter in (self.class_token, self.pos_embed, self.proj):
            if parameter is not None:
                nn.init.normal_(parameter, std=std)
        for block in self.blocks:
            nn.init.xavier_uniform_(block.attn.qkv.weight)  # as in nn.MultiheadAttention
            nn.init.zeros_(block.attn.qkv.bias)
            nn.init.zeros_(block.attn.proj.bias)

    def forward(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W), normalized -> pooled (B, C), patch tokens (B, N, C) of the last block.

        With patch dropout in training, N is the number of patches that are kept.
        """
        x, grid = self.embed(images)  # (B, P + N, C)
        x = self._run(0, x)
        return ImageFeatures(self.pool_tokens(x), x[:, self.prefix :], grid)

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized -> the pooled features (B, C) of ``forward``.

        The last block is computed for the class token only, which is cheaper.
        """
        x, _ = self.embed(images)  # (B, P + N, C)
        if self.flavour.pool != 'class_token':
            return self.pool_tokens(self._run(0, x))
        class_tokens = torch.arange(x.shape[0], device=x.device) * x.shape[1]  # (B,)
        return self.norm_post(self._run(0, x, rows=class_tokens))

    def forward_layers(
        self, images: Tensor, layers: Iterable[int]
    ) -> tuple[dict[int, Tensor], tuple[int, int]]:
        """Inputs of the given blocks; the number of blocks stands for the output of the last one.

        Args:
            images: (B, 3, H, W).
            layers: 0 .. number of blocks; negative ones count from the end (-1: the last block).

        Returns:
            ``{layer: (B, P + N, C)}`` with the layers as given, and the grid.

        Raises:
            IndexError: a layer that does not exist.
        """
        depth = len(self.blocks)
        wanted = {layer: layer + depth if layer < 0 else layer for layer in layers}
        for layer, place in wanted.items():
            if not 0 <= place <= depth:
                raise IndexError(f'layer {layer} does not exist in a tower with {depth} blocks')
        x, grid = self.embed(images)
        inputs, last = {}, max(wanted.values(), default=-1)
        for index in range(last + 1):
            x = self.with_prompts(x, index)
            inputs[index] = x
            if index < last:
                x = self._run(index, x, stop=index + 1)
        return {layer: inputs[place] for layer, place in wanted.items()}, grid

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> input of the first block (B, P + N, C), grid.  Incomplete patches are dropped.

        Raises:
            InputError: images smaller than one patch.
        """
        x, grid = patch_tokens(images, self.patch_embed)  # (B, N, C)
        if self.class_token is not None:
            x = torch.cat([self.class_token.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        x = x + self.positions(grid).to(x.dtype)
        if self.training and self.patch_dropout:
            x = self._drop_patches(x)
        if self._prompts:
            first = int(self.flavour.class_token)
            prompts = self._prompts[0].to(x.dtype).expand(x.shape[0], -1, -1)
            x = torch.cat([x[:, :first], prompts, x[:, first:]], dim=1)
        return self.norm_pre(x), grid

    def with_prompts(self, x: Tensor, index: int) -> Tensor:
        """Tokens (B, P + N, C) as block ``index`` takes them: with its own prompts, if it has any."""
        if not 1 <= index < len(self._prompts):
            return x
        return replace_tokens(x, int(self.flavour.class_token), self._prompts[index])

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """(1 + h * w, C) position embeddings for a grid."""
        return resize_positions(
            self.pos_embed,
            grid,
            prefix=int(self.flavour.class_token),
            mode=self.position_mode,
            antialias=self.antialias,
        )

    def pool_tokens(self, tokens: Tensor) -> Tensor:
        """Output of the last block (B, P + N, C) -> (B, C), before projection."""
        if self.pool is not None:
            return self._normalized(self.pool, tokens)
        if self.flavour.pool == 'average':
            return self.norm_post(tokens[:, self.prefix :].mean(dim=1))
        return self.norm_post(tokens[:, 0])

    def project(self, pooled: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        return pooled if self.proj is None else pooled @ self.proj

    def project_patches(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch tokens (B, N, C) before the final norm -> pixel embeddings (B, D, h, w).

        In a tower that pools with a query (SigLIP, CoCa) they take the value path of the pool: what the pool
        gives for a patch alone.
        """
        pool = self.pool
        x = self.norm_post(tokens) if pool is None else self._normalized(pool.values, tokens)
        return self.project(x).mT.unflatten(2, grid)

    def _normalized(self, pool: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
        """Pooled tokens with the final norm: before the pool of SigLIP, after that of CoCa."""
        if self.flavour.pool == 'contrastive':
            return self.norm_post(pool(tokens))
        return pool(self.norm_post(tokens))

    def _run(self, start: int, x: Tensor, stop: int | None = None, rows: Tensor | None = None) -> Tensor:
        """The blocks from ``start`` on, each with its prompts; ``rows`` are those of the last one."""
        last = len(self.blocks) if stop is None else stop
        while start < last:
            x = self.with_prompts(x, start)
            until = start + 1 if start + 1 < len(self._prompts) else last  # where the next prompts are placed
            wanted = rows if until == last else None
            blocks = self.blocks[start:until]
            x = run_blocks(blocks, x, rows=wanted, checkpointing=self.gradient_checkpointing)
            start = until
        return x

    def _drop_patches(self, x: Tensor) -> Tensor:
        """Keep a random fraction of the patches of each image, and the class token."""
        first = int(self.flavour.class_token)
        patches = x[:, first:]
        keep = max(1, round(patches.shape[1] * (1 - self.patch_dropout)))
        chosen = torch.rand(patches.shape[:2], device=x.device).argsort(dim=1)[:, :keep]
        kept = patches.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1]))
        return torch.cat([x[:, :first], kept], dim=1)
