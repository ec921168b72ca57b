"""The grouping block.  B: images, N: tokens of the image, T: group tokens, G: groups, C: width."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.attention import MLP
from clipdense.layers.precision import at_least_fp32, no_autocast

Assign = Literal['hard', 'soft']


class Assignment(NamedTuple):
    """Assignment of tokens to groups; each column sums to 1."""

    used: Tensor  # (B, G, N) as used by the block: one-hot for hard assignment, with noise in training
    soft: Tensor  # (B, G, N) softmax over the groups, without noise


class Mlp(nn.Module):
    """Two linear layers between any three widths."""

    def __init__(self, inside: int, hidden: int, outside: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inside, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, outside)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inside) -> (..., outside)."""
        return self.fc2(self.act(self.fc1(x)))


class TokenMixer(Mlp):
    """An MLP over the token dimension: T tokens -> G."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, G, C)."""
        return super().forward(x.mT).mT


class CrossBlock(nn.Module):
    """Cross-attention of groups to image tokens and an MLP, both residual, with a final norm."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, 4 * width, 'gelu')
        self.norm_post = nn.LayerNorm(width)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        """(B, G, C), (B, N, C) -> (B, G, C)."""
        query = self.q(queries).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, G, d)
        key, value = self.kv(x).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        queries = queries + self.proj(attended)  # (B, G, C)
        queries = queries + self.mlp(self.norm2(queries))
        return self.norm_post(queries)


class AssignBlock(nn.Module):
    """Assigns each image token to a group, and averages the values of the tokens of each group.

    The sum over a group is divided by its number of tokens plus one.

    Args:
        width: C.
        assign: 'hard' is a straight-through argmax, with Gumbel noise in training; 'soft' is a softmax.
    """

    def __init__(self, width: int, assign: Assign = 'hard') -> None:
        super().__init__()
        if assign not in ('hard', 'soft'):
            raise ValueError(f"assign must be 'hard' or 'soft', got {assign!r}")
        self.assign = assign
        self.scale = width**-0.5
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, x: Tensor) -> tuple[Tensor, Assignment]:
        """(B, G, C), (B, N, C) -> (B, G, C) and the assignment."""
        key, value = self.kv(x).chunk(2, dim=-1)  # (B, N, C)
        logits = at_least_fp32(self.q(queries) @ key.mT) * self.scale  # (B, G, N)
        soft = logits.softmax(dim=1)  # over the groups
        used = soft
        if self.assign == 'hard':
            noisy = (logits + gumbel_noise(logits)).softmax(dim=1) if self.training else soft
            used = straight_through(noisy)
        shares = used / (used.sum(dim=-1, keepdim=True) + 1)
        return self.proj(shares.to(value.dtype) @ value), Assignment(used, soft)


class GroupingBlock(nn.Module):
    """Group tokens and image tokens -> groups.

    Args:
        width: C.
        num_heads: heads of the cross-attention before the assignment, which the paper does not mention.
        group_tokens, groups: T, G.
        width_out: width of the groups.
        assign: see ``AssignBlock``.

    Source: NVlabs/GroupViT models/group_vit.py ``GroupingBlock``, as its released weights need it.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        group_tokens: int,
        groups: int,
        width_out: int,
        assign: Assign = 'hard',
    ) -> None:
        super().__init__()
        self.norm_tokens = nn.LayerNorm(width)
        self.norm_x = nn.LayerNorm(width)
        self.mixer = TokenMixer(group_tokens, width // 2, groups)
        self.norm_queries = nn.LayerNorm(width)
        self.cross = CrossBlock(width, num_heads)
        self.assign = AssignBlock(width, assign)
        self.norm_groups = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width, width_out)
        self.reduction = nn.Identity() if width == width_out else _reduction(width, width_out)

    def forward(self, group_tokens: Tensor, x: Tensor) -> tuple[Tensor, Assignment]:
        """(B, T, C), (B, N, C) -> groups (B, G, width_out) and the assignment."""
        tokens, x = self.norm_tokens(group_tokens), self.norm_x(x)
        queries = self.norm_queries(self.mixer(tokens))  # (B, G, C)
        queries = self.cross(queries, x)
        gathered, assignment = self.assign(queries, x)
        groups = gathered + queries
        return self.reduction(groups) + self.mlp(self.norm_groups(groups)), assignment


def patch_shares(assignments: Sequence[Assignment]) -> Tensor:
    """Share of each final group in each patch (B, G, N): the product of the stages' soft assignments.

    Raises:
        ValueError: a tower without groups.
    """
    if not assignments:
        raise ValueError('the image tower has no grouping stage and cannot segment')
    shares = [stage.soft for stage in assignments]
    with no_autocast(shares[0].device):
        return reduce(lambda so_far, soft: soft @ so_far, shares)


def straight_through(soft: Tensor) -> Tensor:
    """(B, G, N) -> one-hot along G (the first of equal values), with the gradient of ``soft``."""
    hard = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0)
    return hard + (soft - soft.detach()) if soft.requires_grad else hard


def gumbel_noise(like: Tensor) -> Tensor:
    """Gumbel(0, 1) noise of the same shape: the argmax of logits + noise is a sample of their softmax."""
    smallest = torch.finfo(like.dtype).tiny
    return -torch.empty_like(like).exponential_().clamp_min_(smallest).log()


def _reduction(width: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width_out, bias=False))
