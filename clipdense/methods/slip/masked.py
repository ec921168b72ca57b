"""Masked image modeling as the partner of CLIP: the tower sees a part of the patches, a small decoder draws
the others (MAE).

b: images of a micro-batch, N: patches, P: tokens before the first patch, n: visible patches, p: side of a
patch, (h, w): grid, C: width, D: width of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.dense import Tower
from clipdense.clip.model import CLIP
from clipdense.clip.vit import VisionTransformer
from clipdense.layers.precision import at_least_fp32
from clipdense.layers.transformer import Block, run_blocks
from clipdense.registry import MODELS
from clipdense.utils.errors import InputError

from .partner import Partner, check_positive

_EPS = 1e-6  # of the variance of a patch, and of the normalizations of the decoder
_STD = 0.02  # of the mask token


@MODELS.register_module()
class MaskedImageModeling(Partner):
    """Mean squared error of the pixels of masked patches, each patch normalized by its mean and variance.

    It needs one view, usually a crop and a flip without changed colors:
    ``views=dict(first=dict(type=TrainCrop, size=224, scale=(0.2, 1.0), flip=0.5))``.  The decoder has fixed
    position embeddings of sines and cosines.

    Args:
        clip: the CLIP whose image tower is trained, a ViT; set by ``SlipPretrainer``.
        hidden: D, a multiple of 4.
        layers: blocks of the decoder.
        num_heads: its attention heads.
        mask_ratio: fraction of the patches that the tower does not see.

    Raises:
        InputError: a tower that is not a ViT, or with patch dropout; a fraction that is not between 0 and 1,
            or a width that does not fit.

    Source: He et al., arXiv 2111.06377, section 3; facebookresearch/mae ``models_mae.py``.
    """

    views = 1
    least = 1

    def __init__(
        self, clip: CLIP, hidden: int = 512, layers: int = 2, num_heads: int = 8, mask_ratio: float = 0.75
    ) -> None:
        super().__init__()
        check_positive(hidden=hidden, layers=layers, num_heads=num_heads)
        tower = clip.image
        if not isinstance(tower, VisionTransformer) or tower.pool is not None:
            raise InputError(
                'masked image modeling drops patches: it needs a ViT whose class token is pooled, not a '
                f'{type(tower).__name__}'
            )
        if tower.patch_dropout:
            raise InputError('masked image modeling drops patches itself: set patch_dropout=0 of the model')
        if not 0 < mask_ratio < 1:
            raise InputError(f'mask_ratio must be between 0 and 1, got {mask_ratio!r}')
        if hidden % 4 or hidden % num_heads:
            raise InputError(f'hidden={hidden} must be a multiple of 4 and of num_heads={num_heads}')
        self.mask_ratio, self.patch_size = mask_ratio, tower.patch_size
        self.embed = nn.Linear(tower.size.width, hidden)
        self.mask_token = nn.Parameter(torch.randn(hidden) * _STD)
        self.blocks = nn.ModuleList(Block(hidden, num_heads, 4 * hidden, 'gelu', _EPS) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden, eps=_EPS)
        self.pixels = nn.Linear(hidden, 3 * tower.patch_size**2)

    def features(self, tower: Tower, views: Tensor) -> tuple[Tensor, ...]:
        """Views (b, 1, 3, H, W) -> the mean error of each image, (b,)."""
        assert isinstance(tower, VisionTransformer)
        images = views[:, 0]
        x, grid = tower.embed(images)  # (b, P + N, C)
        first, count = tower.prefix, grid[0] * grid[1]
        visible = min(max(round(count * (1 - self.mask_ratio)), 1), count - 1)
        if not visible:
            raise InputError('images of one patch cannot be masked: use larger images or smaller patches')
        order = torch.rand(len(x), count, device=x.device).argsort(dim=1)  # (b, N)
        shown = order[:, :visible, None].expand(-1, -1, x.shape[-1])
        tokens = torch.cat([x[:, :first], x[:, first:].gather(1, shown)], dim=1)  # (b, P + n, C)
        tokens = tower.norm_post(run_blocks(tower.blocks, tokens, checkpointing=tower.gradient_checkpointing))
        drawn = self._decode(tokens, order, grid, first)  # (b, N, 3 p p)
        errors = (drawn - patch_pixels(images, self.patch_size)).square().mean(dim=-1)  # (b, N)
        return (errors.gather(1, order[:, visible:]).mean(dim=1),)

    def loss(self, features: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {'ssl_loss': features[0].mean()}

    def _decode(self, tokens: Tensor, order: Tensor, grid: tuple[int, int], first: int) -> Tensor:
        """Visible tokens (b, P + n, C), order of the patches (b, N) -> normalized pixels (b, N, 3 p p)."""
        y = self.embed(tokens)  # (b, P + n, D)
        hidden = order.shape[1] - (y.shape[1] - first)
        masked = self.mask_token.to(y.dtype).expand(len(y), hidden, -1)
        patches = torch.cat([y[:, first:], masked], dim=1)  # (b, N, D), in the order of ``order``
        back = order.argsort(dim=1)[..., None].expand_as(patches)
        patches = patches.gather(1, back) + sine_positions(grid, y.shape[-1]).to(y)
        y = run_blocks(self.blocks, torch.cat([y[:, :first], patches], dim=1))
        return at_least_fp32(self.pixels(self.norm(y[:, first:])))


def patch_pixels(images: Tensor, patch: int) -> Tensor:
    """(b, 3, H, W) -> pixels of each patch (b, N, 3 p p), with mean 0 and variance 1.

    Incomplete patches are dropped, as the tower does.
    """
    pixels = F.unfold(at_least_fp32(images), patch, stride=patch).mT  # (b, N, 3 p p)
    variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)
    return (pixels - mean) / (variance + _EPS).sqrt()


def sine_positions(grid: tuple[int, int], width: int) -> Tensor:
    """(h * w, D): sines and cosines of the row, then of the column, with frequencies from 1 to 1 / 10,000."""
    frequency = 10_000 ** -(torch.arange(width // 4) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in grid), indexing='ij')
    angles = [side.flatten()[:, None] * frequency for side in (rows, columns)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
