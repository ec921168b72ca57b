"""Sizes of GroupViT.  C: width of a stage, D: joint space."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clipdense.clip.sizes import TextSize
from clipdense.utils.errors import refuse_unknown


@dataclass(frozen=True)
class StageSize:
    """A stage: transformer blocks, and optionally a grouping block.

    Args:
        depth: number of transformer blocks.
        width: C.
        num_heads: attention heads, in the blocks and in the grouping.
        group_tokens: number of learned group tokens.
        groups: number of groups after the stage; 0 for no grouping.

    Raises:
        ValueError: group tokens without groups, or groups without group tokens.
    """

    depth: int
    width: int
    num_heads: int
    group_tokens: int = 0
    groups: int = 0

    def __post_init__(self) -> None:
        if bool(self.group_tokens) != bool(self.groups):
            raise ValueError(
                'group_tokens and groups must both be 0 or both be positive, got '
                f'{self.group_tokens} and {self.groups}'
            )


@dataclass(frozen=True)
class GroupVitImageSize:
    """The image tower.

    Args:
        image_size, patch_size: in pixels; images of other sizes are accepted.
        stages: the stages; the width of the first is that of the patch embedding.
        embed_dim: D.
        projector_width: hidden width of the projector into the joint space.
        mlp_ratio: hidden width of the blocks' MLPs over C.
    """

    image_size: int
    patch_size: int
    stages: tuple[StageSize, ...]
    embed_dim: int
    projector_width: int = 4096
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError('an image tower needs at least one stage')
        stages = tuple(StageSize(**stage) if isinstance(stage, dict) else stage for stage in self.stages)
        object.__setattr__(self, 'stages', stages)


@dataclass(frozen=True)
class GroupVitSize:
    """Both towers; they meet in ``embed_dim``.

    Args:
        image, text: sizes of the towers, or dicts of their fields.
        multi_label: whether the multi-label loss has its own logit scale.
        background: whether there is a learned background embedding (not in the paper).

    Raises:
        ValueError: towers of different ``embed_dim``.
    """

    image: GroupVitImageSize
    text: TextSize
    multi_label: bool = True
    background: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.image, dict):
            object.__setattr__(self, 'image', GroupVitImageSize(**self.image))
        if isinstance(self.text, dict):
            object.__setattr__(self, 'text', TextSize(**self.text))
        if self.image.embed_dim != self.text.embed_dim:
            raise ValueError(
                f'image and text must have the same embed_dim, got {self.image.embed_dim} and '
                f'{self.text.embed_dim}'
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GroupVitSize:
        """The inverse of ``to_dict``."""
        return cls(**values)

    @classmethod
    def named(cls, name: str) -> GroupVitSize:
        """A size of ``PUBLISHED``.

        Raises:
            InputError: an unknown name.
        """
        refuse_unknown([name], PUBLISHED, 'unknown GroupViT size')
        return PUBLISHED[name]


def _small(*stages: tuple[int, int, int]) -> GroupVitSize:
    """ViT-S/16 from (depth, group tokens, groups) of each stage, beside a text tower of width 256."""
    sizes = tuple(StageSize(depth, 384, 6, tokens, groups) for depth, tokens, groups in stages)
    text = TextSize(width=256, layers=12, num_heads=4, mlp_width=1024, embed_dim=256)
    return GroupVitSize(GroupVitImageSize(224, 16, sizes, embed_dim=256), text)


# Xu et al., arXiv 2202.11094, section 4.1 and table 3.
PUBLISHED: dict[str, GroupVitSize] = {
    'GroupViT-S-16': _small((6, 64, 64), (3, 8, 8), (3, 0, 0)),
    'GroupViT-S-16-one-stage': _small((6, 64, 8), (6, 0, 0)),
}
