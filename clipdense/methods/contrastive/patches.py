"""Image and patch embeddings of a vision transformer.

B: images, D: joint space, (h, w): patch grid.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from clipdense.clip.dense import Tower, last_attention
from clipdense.clip.vit import VisionTransformer
from clipdense.utils.errors import InputError


def embed_patches(
    tower: Tower, images: Tensor, kind: Literal['values', 'last'] = 'values'
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) -> embeddings of images (B, D) and of patches (B, D, h, w), not normalized.

    Args:
        tower: the image tower.
        images: (B, 3, H, W), normalized.
        kind: of patch embedding: 'values' as ``clip.dense.encode_dense``, or 'last', the output of the last
            block through the projection.

    Raises:
        InputError: a tower that is not a transformer.
    """
    if not isinstance(tower, VisionTransformer):
        raise InputError(
            f'patch embeddings need a vision transformer as image tower, not {type(tower).__name__}'
        )
    if kind == 'last':
        features = tower(images)
        return tower.project(features.pooled), tower.project_patches(features.patch_tokens, features.grid)
    last = last_attention(tower, images)
    return last.pooled(), last.embed(last.value)
