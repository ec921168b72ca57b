"""The pyramid of a plain ViT.  B: images, C: channels, (h, w): a level."""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from clipdense.registry import MODELS


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
