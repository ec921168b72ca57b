"""Image towers of CLIP that return four maps together with their embeddings.

B: images, N: patches, (h, w): grid of the embeddings, C: width, D: joint space.

Source: raoyongming/DenseCLIP ``segmentation/denseclip/models.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from clipdense.clip.dense import PoolAttention, patches
from clipdense.clip.resnet import ModifiedResNet
from clipdense.clip.vit import VisionTransformer
from clipdense.registry import build_module
from clipdense.utils.errors import InputError

_SCALES = {8: (2, 1, 0.5, 0.25)}  # by patch size
_USUAL = (4, 2, 1, 0.5)


class Stages(NamedTuple):
    """What a tower makes of images."""

    maps: list[Tensor]  # four, (B, C_i, h_i, w_i), finest first, each half as wide as the one before
    pooled: Tensor  # (B, D) the image embedding
    local: Tensor  # (B, D, h, w) projected like the image embedding, not normalized


class ResNetStages(nn.Module):
    """The four stages of CLIP's ResNet, and its attention pool with a query for every cell.

    Args:
        tower: the image tower.
    """

    stride = 32
    score_index = 3  # the score map has the size of this map

    def __init__(self, tower: ModifiedResNet) -> None:
        super().__init__()
        self.tower: Any = tower
        stem = tower.size.width
        self.channels = tuple(4 * stem * 2**stage for stage in range(4))

    def forward(self, images: Tensor) -> Stages:
        """(B, 3, H, W), multiples of 32."""
        x, maps = self.tower.stem(images), []
        for stage in (self.tower.layer1, self.tower.layer2, self.tower.layer3, self.tower.layer4):
            x = stage(x)
            maps.append(x)
        grid = (x.shape[-2], x.shape[-1])
        pool = PoolAttention(self.tower, x.flatten(2).mT, grid)
        mixed = pool.attend(pool.query, pool.key)  # (B, heads, 1 + N, d)
        tokens = self.tower.project(mixed.transpose(1, 2).flatten(2))  # (B, 1 + N, D)
        return Stages(maps, tokens[:, 0], patches(tokens, grid).mT.unflatten(2, grid))


class TransformerStages(nn.Module):
    """Outputs of four blocks of CLIP's ViT, resized, and the projected tokens of the last one.

    Args:
        tower: the image tower.
        taps: indices of the four blocks; 3, 5, 7 and 11 of 12 by default.
        scales: resolution of each map relative to the patch grid, each half of the one before; by default
            for strides of 4, 8, 16 and 32 pixels at patch sizes of 16 and 8.

    Raises:
        InputError: taps that are not blocks in ascending order, or scales that do not halve.
    """

    def __init__(
        self,
        tower: VisionTransformer,
        taps: Sequence[int] | None = None,
        scales: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.tower: Any = tower
        depth, width = len(tower.blocks), tower.size.width
        self.taps = default_taps(depth) if taps is None else tuple(taps)
        if (
            len(self.taps) != 4
            or list(self.taps) != sorted(self.taps)
            or not set(self.taps) <= {*range(depth)}
        ):
            raise InputError(
                f'taps must be four ascending block indices from 0 to {depth - 1}, got {list(self.taps)}'
            )
        self.scales = tuple(_SCALES.get(tower.patch_size, _USUAL) if scales is None else scales)
        if len(self.scales) != 4 or any(self.scales[0] != one * 2**at for at, one in enumerate(self.scales)):
            raise InputError(f'scales must be four, each half of the one before, got {list(self.scales)}')
        if 1 not in self.scales:
            raise InputError(
                f'one of the scales must be 1, the grid of the score map; got {list(self.scales)}'
            )
        self.score_index = self.scales.index(1)
        self.stride = round(tower.patch_size / min(1, *self.scales))
        self.channels = (width,) * 4
        self.resample: Any = nn.ModuleList(_resample(width, scale) for scale in self.scales)

    def forward(self, images: Tensor) -> Stages:
        """(B, 3, H, W), multiples of the stride."""
        layers = [tap + 1 for tap in self.taps]
        depth = len(self.tower.blocks)
        found, grid = self.tower.forward_layers(images, [*layers, depth])
        maps = [
            resample(patches(found[layer], grid).mT.unflatten(2, grid))
            for resample, layer in zip(self.resample, layers, strict=True)
        ]
        pooled = self.tower.project(self.tower.pool_tokens(found[depth]))  # (B, D)
        return Stages(maps, pooled, self.tower.project_patches(patches(found[depth], grid), grid))


def build_stages(
    tower: nn.Module | dict, taps: Sequence[int] | None = None, scales: Sequence[float] | None = None
) -> ResNetStages | TransformerStages:
    """The stages of an image tower, or of its config.

    Raises:
        InputError: a tower of another kind, or taps or scales for a ResNet.
    """
    tower = build_module(tower)
    if isinstance(tower, VisionTransformer):
        return TransformerStages(tower, taps, scales)
    if not isinstance(tower, ModifiedResNet):
        raise InputError(
            f'DenseCLIP needs a ViT or ResNet of CLIP as image tower, not a {type(tower).__name__}'
        )
    if taps is not None or scales is not None:
        raise InputError('taps and scales are those of a ViT: remove them for a ResNet')
    return ResNetStages(tower)


def default_taps(depth: int) -> tuple[int, ...]:
    """3, 5, 7 and 11 of 12 blocks; the last of each quarter of fewer than six."""
    if depth < 6:
        return tuple(max(round(depth * quarter / 4) - 1, 0) for quarter in range(1, 5))
    return depth // 3 - 1, depth // 2 - 1, 2 * depth // 3 - 1, depth - 1


def _resample(width: int, scale: float) -> nn.Sequential:
    """Group norm over all channels, then transposed convolutions or max pooling."""
    layers: list[nn.Module] = [nn.GroupNorm(1, width)]
    if scale < 1:
        side = round(1 / scale)
        layers.append(nn.MaxPool2d(side, side))
    while scale > 1:
        if len(layers) > 1:
            layers += [nn.BatchNorm2d(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width, 2, 2))
        scale /= 2
    return nn.Sequential(*layers)
