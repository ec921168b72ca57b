"""The image tower: a transformer that assigns tokens to groups at the end of each stage.

B: images, N: tokens of an image, (h, w): patch grid, T: group tokens, G: groups, C: width, D: joint space.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clipdense.layers.batch_norm import SyncedBatchNorm
from clipdense.layers.pos_embed import patch_tokens, resize_positions
from clipdense.layers.stochastic_depth import depth_rates
from clipdense.layers.transformer import Block, run_blocks
from clipdense.registry import MODELS

from .grouping import Assign, Assignment, GroupingBlock, TokenMixer
from .sizes import GroupVitImageSize, StageSize


class StageOutput(NamedTuple):
    """Output of a stage."""

    x: Tensor  # (B, G, C) groups, or (B, N, C) for a stage without grouping
    group_tokens: Tensor | None  # (B, T, C) after the blocks
    assignment: Assignment | None


class GroupFeatures(NamedTuple):
    """Output of the image tower."""

    pooled: Tensor  # (B, C) mean over the groups
    groups: Tensor  # (B, G, C) after the last stage
    assignments: list[Assignment]  # of each grouping stage, (B, G, N), N: groups of the previous one
    grid: tuple[int, int]


class GroupProjector(nn.Module):
    """Projects the group tokens of the previous stage to those of the next."""

    def __init__(self, before: StageSize, now: StageSize) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(before.width)
        self.mixer = TokenMixer(before.group_tokens, before.width // 2, now.group_tokens)

    def forward(self, group_tokens: Tensor) -> Tensor:
        """(B, T', C') -> (B, T, C')."""
        return self.mixer(self.norm(group_tokens))


class WideningProjector(nn.Module):
    """The same for a next stage of another width."""

    def __init__(self, before: StageSize, now: StageSize) -> None:
        super().__init__()
        self.narrow = GroupProjector(before, now)
        self.norm_wide = nn.LayerNorm(before.width)
        self.wide = nn.Linear(before.width, now.width, bias=False)

    def forward(self, group_tokens: Tensor) -> Tensor:
        """(B, T', C') -> (B, T, C)."""
        return self.wide(self.norm_wide(self.narrow(group_tokens)))


class Stage(nn.Module):
    """Blocks on image tokens and group tokens together, then the grouping block.

    Args:
        size: size of this stage.
        before: size of the previous stage, None for the first.
        width_out: C of the next stage.
        mlp_ratio: see ``GroupVitImageSize``.
        drops: stochastic depth of each block.
        assign: see ``AssignBlock``.
    """

    def __init__(
        self,
        size: StageSize,
        before: StageSize | None,
        width_out: int,
        mlp_ratio: float,
        drops: list[float],
        assign: Assign,
    ) -> None:
        super().__init__()
        width, hidden = size.width, int(mlp_ratio * size.width)
        self.blocks: Any = nn.ModuleList(
            Block(width, size.num_heads, hidden, 'gelu', drop_path=drop) for drop in drops
        )
        self.group_tokens = self.group_projector = self.grouping = None
        if size.group_tokens:
            self.group_tokens = nn.Parameter(torch.zeros(size.group_tokens, width))
            self.grouping = GroupingBlock(
                width, size.num_heads, size.group_tokens, size.groups, width_out, assign
            )
            if before is not None and before.group_tokens:
                projector = GroupProjector if before.width == width else WideningProjector
                self.group_projector = projector(before, size)

    def forward(self, x: Tensor, before: Tensor | None = None, checkpointing: bool = False) -> StageOutput:
        """(B, N, C), group tokens of the previous stage (B, T', C') -> see ``StageOutput``."""
        if self.group_tokens is None or self.grouping is None:
            return StageOutput(run_blocks(self.blocks, x, checkpointing=checkpointing), None, None)
        tokens = self.group_tokens.to(x.dtype).expand(x.shape[0], -1, -1)  # (B, T, C)
        if self.group_projector is not None and before is not None:
            tokens = tokens + self.group_projector(before)
        count = x.shape[1]
        both = run_blocks(self.blocks, torch.cat([x, tokens], dim=1), checkpointing=checkpointing)
        x, tokens = both[:, :count], both[:, count:]
        groups, assignment = self.grouping(tokens, x)
        return StageOutput(groups, tokens, assignment)


class Projector(nn.Module):
    """Projector into the joint space: linear, synchronized batch norm, ReLU, linear."""

    def __init__(self, width: int, hidden: int, embed_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.norm = SyncedBatchNorm(hidden)
        self.out = nn.Linear(hidden, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        return self.out(self.norm(self.hidden(x)).relu())


@MODELS.register_module()
class GroupVitEncoder(nn.Module):
    """GroupViT's image tower for images of any size: position embeddings are resized at run time.

    Args:
        size: a ``GroupVitImageSize`` or a dict of its fields.
        assign: 'hard' (released) or 'soft' (ablation), see ``AssignBlock``.
        drop_path: stochastic depth of the last block; it grows from 0 along the blocks.
        spread: initialize with ``spread_groups``, for runs shorter than the paper's.

    Source: Xu et al., arXiv 2202.11094, section 3; NVlabs/GroupViT models/group_vit.py.
    """

    def __init__(
        self,
        size: GroupVitImageSize | dict,
        *,
        assign: Assign = 'hard',
        drop_path: float = 0.0,
        spread: bool = False,
    ) -> None:
        super().__init__()
        self.size = size = GroupVitImageSize(**size) if isinstance(size, dict) else size
        self.gradient_checkpointing = False
        width, stages = size.stages[0].width, size.stages
        self.patch_embed = nn.Conv2d(3, width, size.patch_size, size.patch_size)
        self.norm_patch = nn.LayerNorm(width)
        self.pos_embed = nn.Parameter(torch.empty((size.image_size // size.patch_size) ** 2, width))
        drops = depth_rates(drop_path, sum(stage.depth for stage in stages))
        self.stages: Any = nn.ModuleList()
        for index, stage in enumerate(stages):
            own, drops = drops[: stage.depth], drops[stage.depth :]
            before = stages[index - 1] if index else None
            width_out = stages[min(index + 1, len(stages) - 1)].width
            self.stages.append(Stage(stage, before, width_out, size.mlp_ratio, own, assign))
        self.norm_post = nn.LayerNorm(stages[-1].width)
        self.projector = Projector(stages[-1].width, size.projector_width, size.embed_dim)
        self.reset_parameters()
        if spread:
            self.spread_groups()

    def reset_parameters(self) -> None:
        """Truncated normal, std 0.02; group tokens with a projector from the previous stage start at zero."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for stage in self.stages:
            if stage.group_tokens is not None and stage.group_projector is None:
                nn.init.trunc_normal_(stage.group_tokens, std=0.02)
        for module in self.stages.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.no_grad()
    def spread_groups(self) -> None:
        """Initialize group tokens and assignment logits with unit variance (not in the paper).

        With the released initialization assignments are nearly uniform, especially in narrow towers: hard
        assignments are then random until the logits have grown.
        """
        for stage in self.stages:
            if stage.grouping is not None:
                nn.init.normal_(stage.group_tokens)
                assign, width = stage.grouping.assign, stage.group_tokens.shape[-1]
                for weight in (assign.q.weight, assign.kv.weight[:width]):  # of queries and of keys
                    nn.init.normal_(weight, std=width**-0.5)

    def forward(self, images: Tensor) -> GroupFeatures:
        """(B, 3, H, W), normalized, any H and W of at least a patch."""
        x, grid = self.embed(images)  # (B, N, C)
        tokens, assignments = None, []
        for stage in self.stages:
            x, tokens, assignment = stage(x, tokens, self.gradient_checkpointing)
            if assignment is not None:
                assignments.append(assignment)
        groups = self.norm_post(x)  # (B, G, C)
        return GroupFeatures(groups.mean(dim=1), groups, assignments, grid)

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> tokens of the first stage (B, N, C), grid.  Incomplete patches are cropped.

        Raises:
            InputError: images smaller than one patch.
        """
        x, grid = patch_tokens(images, self.patch_embed)  # (B, N, C)
        positions = resize_positions(self.pos_embed, grid, prefix=0, antialias=False)
        return self.norm_patch(x) + positions.to(x.dtype), grid

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized -> (B, C)."""
        return self(images).pooled

    def project(self, features: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        return self.projector(features)
