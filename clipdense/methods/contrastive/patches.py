"""What a patch of a transformer is in the joint space.  B: images, C: width, D: joint space, (h, w): grid."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from clipdense.clip.resnet import ModifiedResNet
from clipdense.clip.vit import VisionTransformer
from clipdense.utils.errors import InputError


def embed_patches(
    tower: VisionTransformer | ModifiedResNet, images: Tensor, kind: Literal['values', 'last'] = 'values'
) -> tuple[Tensor, Tensor]:
    """Images -> their features (B, C) and the embeddings of their patches (B, D, h, w), of any norm.

    Args:
        tower: the image tower.
        images: (B, 3, H, W), normalised.
        kind: 'values', what a patch would give a token that attends to it alone in the last block, without
            the residual; or 'last', as that block leaves it.

    Raises:
        InputError: a tower that is no transformer.
    """
    if not isinstance(tower, VisionTransformer):
        raise InputError('phrases are pooled over the patches of a transformer; this tower is another')
    inputs, grid = tower.forward_layers(images, [-1])
    block, x = tower.blocks[-1], inputs[-1]  # x: (B, 1 + N, C)
    tokens = last = block(x)
    if kind == 'values':
        tokens = block.attn.merge(block.attn.split(block.norm1(x))[2])
    return tower.pool_tokens(last), tower.project_patches(tokens[:, tower.prefix :], grid)
