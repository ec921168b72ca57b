"""A second path parallel to the last blocks: self-self attention without feed-forward.

B: windows, T: tokens, C: width, d: width of a head.  CLIPSurgery and GEM differ in the attention.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.vit import VisionTransformer

Mix = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def second_path(
    vit: VisionTransformer, x: Tensor, blocks: int, mix: Mix, residual: bool = True
) -> tuple[Tensor, Tensor]:
    """Run the last blocks and, parallel to them, another attention on the same tokens.

    Args:
        vit: the tower.
        x: (B, T, C) input of the first of these blocks.
        blocks: number of blocks.
        mix: query, key, value (B, heads, T, d) and the normalized tokens (B, T, C) -> (B, heads, T, d).
        residual: sum the outputs over the blocks; otherwise the output of the last block is used.

    Returns:
        (B, T, C) each: the second path, and the unmodified output of the tower.
    """
    second = x
    for index, block in list(enumerate(vit.blocks))[-blocks:]:
        x = vit.with_prompts(x, index)
        normed = block.norm1(x)
        query, key, value = block.attn.split(normed)
        added = block.attn.merge(mix(query, key, value, normed))
        second = second + added if residual else added
        x = x + block.attn.merge(F.scaled_dot_product_attention(query, key, value))
        x = x + block.mlp(block.norm2(x))
    return second, x


def value_attention(query: Tensor, key: Tensor, value: Tensor, normed: Tensor) -> Tensor:
    """CLIPSurgery: value-value attention."""
    return F.scaled_dot_product_attention(value, value, value)


def gem_attention(query: Tensor, key: Tensor, value: Tensor, normed: Tensor) -> Tensor:
    """GEM: two steps of self-self attention of queries, keys and values; the mean of the three.

    The logits are scaled by the mean norm of the image's tokens.
    """
    sharpness = (
        normed.norm(dim=-1).mean(dim=-1)[:, None, None, None] * query.shape[-1] ** -0.5
    )  # (B, 1, 1, 1)

    def attend(part: Tensor, what: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(part * sharpness, part, what, scale=1.0)

    mixed = []
    for part in (query, key, value):
        unit = F.normalize(part, dim=-1)
        clearer = F.normalize(attend(unit, unit), dim=-1)
        mixed.append(attend(clearer, value))
    return (mixed[0] + mixed[1] + mixed[2]) / 3
