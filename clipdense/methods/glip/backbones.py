"""Backbones of timm, and the pyramid of a plain ViT.  B: images, C: channels, (h, w): a level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError, nearest
from clipdense.weights.io import read_weights
from clipdense.weights.strict import load_strict


@MODELS.register_module()
class TimmMaps(nn.Module):
    """A backbone of timm, of which the last map of each stride is taken.

    Args:
        name: in timm, such as 'convnext_tiny'.
        strides: of the maps; a plain ViT has (16,), see ``SimplePyramid``.
        weights: file of timm's weights of this backbone that training begins with.
        options: of ``timm.create_model``, such as ``drop_path_rate=0.1``; a ViT needs
            ``dynamic_img_size=True`` for images of any size.

    Attributes:
        channels: of each map.

    Raises:
        InputError: a name that timm does not have, one without maps, or strides that it does not have.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int] = (8, 16, 32),
        weights: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        with torch.device('meta'):
            there = list(_created(name, options).feature_info.reduction())
        missing = [stride for stride in strides if stride not in there]
        if missing:
            raise InputError(
                f'{name} has no map of stride {missing[0]}, but of {", ".join(map(str, sorted(set(there))))}'
                + (': set strides=(16,) and use SimplePyramid as the neck' if len(set(there)) == 1 else '')
            )
        indices = [len(there) - 1 - there[::-1].index(stride) for stride in strides]
        self.body: Any = _created(name, {**options, 'out_indices': indices})
        self.channels = list(self.body.feature_info.channels())
        self.weights = weights

    def init_weights(self) -> None:
        """Load ``weights``, without the layers that the maps do not need."""
        if self.weights is None:
            return
        own, given = self.body.state_dict(), read_weights(self.weights).tensors
        names = {name: name.replace('.', '_', 1) if name not in own else name for name in given}
        found = {names[name]: value for name, value in given.items() if names[name] in own}
        load_strict(self.body, found, self.weights)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> a map (B, C, h, w) of each stride."""
        maps = self.body(images)
        return tuple(
            one
            if one.shape[1] == channels
            else one.permute(0, 3, 1, 2).contiguous()  # Swin's are (B, h, w, C)
            for one, channels in zip(maps, self.channels, strict=True)
        )


@MODELS.register_module()
class SimplePyramid(nn.Module):
    """Levels of strides 8 to 128 from one map of stride 16, as of a plain ViT.

    Li et al., ViTDet (arXiv 2203.16527), section 3, with the two coarser levels of GLIP's FPN.

    Args:
        in_channels: of the map.
        out_channels: of the levels.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.scale = nn.ModuleList(
            [nn.ConvTranspose2d(in_channels, in_channels, 2, 2), nn.Identity(), nn.MaxPool2d(2)]
        )
        self.project = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )
            for _ in range(3)
        )
        self.coarser = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, 2, 1) for _ in range(2))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The last map (B, C, h, w) -> five levels."""
        levels = [project(scale(maps[-1])) for scale, project in zip(self.scale, self.project, strict=True)]
        levels.append(self.coarser[0](levels[-1]))
        levels.append(self.coarser[1](levels[-1].relu()))
        return tuple(levels)


def _created(name: str, options: dict[str, Any]) -> Any:
    if name not in timm.list_models():
        raise InputError(f'timm has no model {name!r}.{nearest(name, timm.list_models())}')
    try:
        return timm.create_model(name, pretrained=False, features_only=True, **options)
    except (TypeError, RuntimeError, AssertionError, AttributeError) as error:
        raise InputError(f'timm cannot build {name!r} as a backbone: {error}') from error
