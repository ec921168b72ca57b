"""Image towers as BLIP uses them: all tokens of the last layer, normalized, without a projection.

B: images, S: tokens, the first of which stands for the whole image, W: their width, (h, w): patch grid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clipdense.clip.dense import Tower
from clipdense.clip.model import build_image_tower
from clipdense.clip.sizes import ImageSize, VitSize
from clipdense.clip.vit import VisionTransformer
from clipdense.registry import MODELS

from .sizes import image_width


@MODELS.register_module()
class BlipVit(VisionTransformer):
    """A ViT without pooling and projection; flavour 'slip' is the ViT of the released weights.

    Args:
        size: a ``VitSize``, or a dict of its fields; ``embed_dim`` has no effect.
        eps: of the normalizations.
        drop_path: stochastic depth of the last block in training, see ``set_drop_path``.

    Source: salesforce/BLIP models/vit.py; positions are resized by bicubic interpolation without antialias.
    """

    def __init__(self, size: VitSize | dict, eps: float = 1e-6, drop_path: float = 0.0) -> None:
        super().__init__(size, drop_path=drop_path, antialias=False)
        self.proj = self.pool = None
        self.eps = eps
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps

    @property
    def config(self) -> dict[str, Any]:
        """Config that builds this module with new weights."""
        size = super().config['size']
        return {'type': type(self), 'size': size, 'eps': self.eps, 'drop_path': self.drop_path}


def build_tower(size: ImageSize, eps: float = 1e-6) -> Tower:
    """The tower of a size with random weights."""
    return BlipVit(size, eps) if isinstance(size, VitSize) else build_image_tower(size)


def tower_width(tower: Tower) -> int:
    """W of a built tower."""
    trunk = getattr(tower, 'trunk', None)
    return image_width(tower.size) if trunk is None else trunk.num_features


def image_tokens(tower: Tower, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """(B, 3, H, W), normalized, any size -> tokens (B, S, W), patch grid.

    The first token is the class token; in a tower without one it is the mean of the patches.
    """
    if not isinstance(tower, VisionTransformer):
        _, patches, grid = tower(images)  # (B, N, W)
        return torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1), grid
    depth = len(tower.blocks)
    layers, grid = tower.forward_layers(images, [depth])
    tokens = tower.norm_post(layers[depth])  # (B, S, W)
    if not tower.flavour.class_token:
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
    return tokens, grid
