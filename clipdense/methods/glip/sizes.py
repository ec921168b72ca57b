"""Sizes of heads, and of the published models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class HeadSize:
    """A head.

    Args:
        channels: C of the levels.
        text_width: D of the text features.
        depth: blocks.
        fused: whether image and text exchange features in each block; otherwise the text is read once.
        fusion_width, fusion_heads: of the attention between image and text.
        language: the text layer of a block: that of BERT, or that of CLIP.
        text_heads, text_mlp: of the text layer.
        groups: of the group normalization after each deformable convolution.
        dropout: of the attention between image and text, and of BERT's layer.
        strides: pixels between two places, of each level.
        anchor_scale: side of an anchor in strides.
        log_scale: first logarithm of what the products of places and tokens are divided by; with 0, as
            published, a head without weights to start from needs thousands of steps to tell names apart.

    Raises:
        ValueError: sizes that do not divide each other.
    """

    channels: int = 256
    text_width: int = 768
    depth: int = 6
    fused: bool = True
    fusion_width: int = 2048
    fusion_heads: int = 8
    language: Literal['bert', 'clip'] = 'bert'
    text_heads: int = 12
    text_mlp: int = 3072
    groups: int = 16
    dropout: float = 0.1
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    anchor_scale: float = 8.0
    log_scale: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, 'strides', tuple(self.strides))
        for whole, part in (
            ('channels', 'groups'),
            ('fusion_width', 'fusion_heads'),
            ('text_width', 'text_heads'),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f'{whole}={getattr(self, whole)} is not divisible by {part}={getattr(self, part)}'
                )
        if self.language not in ('bert', 'clip'):
            raise ValueError(f"language must be 'bert' or 'clip', got {self.language!r}")


@dataclass(frozen=True)
class GLIPSize:
    """A published model: mmdet's Swin, its levels 8, 16, 32, and the head.

    Args:
        embed_dims, depths, num_heads, window_size, drop_path_rate: of the Swin.
        head: the head.
        weights: name of the official file.
        data: what it was trained on.
        score: AP on COCO, zero-shot, as published with the weights.
    """

    embed_dims: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    drop_path_rate: float
    head: HeadSize
    weights: str
    data: str
    score: float

    @property
    def backbone(self) -> dict[str, Any]:
        """Arguments of ``parts.Swin``."""
        return dict(
            embed_dims=self.embed_dims,
            depths=list(self.depths),
            num_heads=list(self.num_heads),
            window_size=self.window_size,
            drop_path_rate=self.drop_path_rate,
            out_indices=(1, 2, 3),
        )


_TINY = (96, (2, 2, 6, 2), (3, 6, 12, 24), 7, 0.2)
_LARGE = (192, (2, 2, 18, 2), (6, 12, 24, 48), 12, 0.4)
_APART, _FUSED, _DEEP = HeadSize(fused=False), HeadSize(), HeadSize(depth=8)

PUBLISHED = {
    'GLIP-T-A': GLIPSize(*_TINY, _APART, 'glip_a_tiny_o365.pth', 'O365', 42.9),
    'GLIP-T-B': GLIPSize(*_TINY, _FUSED, 'glip_tiny_model_o365.pth', 'O365', 44.9),
    'GLIP-T-C': GLIPSize(*_TINY, _FUSED, 'glip_tiny_model_o365_goldg.pth', 'O365, GoldG', 46.7),
    'GLIP-T': GLIPSize(
        *_TINY, _FUSED, 'glip_tiny_model_o365_goldg_cc_sbu.pth', 'O365, GoldG, CC3M, SBU', 46.6
    ),
    'GLIP-L': GLIPSize(*_LARGE, _DEEP, 'glip_large_model.pth', 'FourODs, GoldG, CC3M+12M, SBU', 51.4),
}
