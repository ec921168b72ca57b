"""The GroupViT model: both towers, their projectors, and logit scales.

B: images, K: texts, G: groups, C: width, D: joint space.
"""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.model import CLIP, MAX_LOGIT_SCALE
from clipdense.clip.preprocess import STATISTICS, Preprocess
from clipdense.clip.sizes import TextSize
from clipdense.clip.text import TextTransformer
from clipdense.registry import MODELS

from .encoder import GroupVitEncoder, Projector
from .grouping import Assignment, patch_shares
from .sizes import GroupVitSize


class GroupEmbeddings(NamedTuple):
    """Embeddings of images and their groups, all of unit norm."""

    image: Tensor  # (B, D)
    groups: Tensor  # (B, G, D)
    assignments: list[Assignment]
    grid: tuple[int, int]


@MODELS.register_module()
class GroupVitText(TextTransformer):
    """CLIP's text tower with a projector instead of the projection matrix.

    Args:
        size: a ``TextSize``, or a dict of its fields.
        projector_width: hidden width of the projector.
    """

    def __init__(self, size: TextSize | dict, projector_width: int = 4096) -> None:
        super().__init__(size)
        self.proj = None
        self.projector = Projector(self.size.width, projector_width, self.size.embed_dim)

    @property
    def config(self) -> dict[str, Any]:
        """Config that builds the tower with random weights."""
        return {**super().config, 'projector_width': self.projector.hidden.out_features}

    def project(self, features: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        return self.projector(features)


@MODELS.register_module()
class GroupVit(CLIP):
    """A CLIP with a grouping image tower; ``encode_image``, ``encode_text`` etc. are those of CLIP.

    Args:
        image: a ``GroupVitEncoder`` or its config.
        text: a ``GroupVitText`` or its config.
        logit_scale: initial value.
        multi_label: whether there is a second logit scale, for the multi-label loss.
        background: whether there is a learned background embedding.
        preprocess: image preprocessing; NVlabs' by default.
    """

    image: GroupVitEncoder  # type: ignore[assignment]
    text: GroupVitText
    method = 'groupvit'
    unit_prompts = False  # the release averages them as they leave the projector

    def __init__(
        self,
        image: nn.Module | dict,
        text: nn.Module | dict,
        logit_scale: float = 1 / 0.07,
        multi_label: bool = True,
        background: bool = False,
        preprocess: Preprocess | None = None,
    ) -> None:
        super().__init__(image, text, logit_scale)
        self.background = nn.Parameter(torch.randn(self.embed_dim)) if background else None  # (D,), any norm
        start = torch.tensor(log(logit_scale))
        self.multi_label_logit_scale = nn.Parameter(start) if multi_label else None
        self.preprocess = preprocess or default_preprocess(self.image.size.image_size)

    @property
    def size(self) -> GroupVitSize:  # type: ignore[override]
        """Everything that ``build_group_vit`` needs to build this model again."""
        multi_label, background = self.multi_label_logit_scale is not None, self.background is not None
        return GroupVitSize(self.image.size, self.text.size, multi_label, background)

    def encode_dense(self, images: Tensor, normalize: bool = False) -> Tensor:
        """(B, 3, H, W), any H and W -> (B, D, h, w): group embeddings averaged by the shares in a patch."""
        features = self.image(images)
        groups = self.image.project(features.groups)  # (B, G, D)
        shares = patch_shares(features.assignments)  # (B, G, N)
        embeddings = (groups.mT @ shares).unflatten(2, features.grid)  # (B, D, h, w)
        return F.normalize(embeddings, dim=1) if normalize else embeddings

    def encode_groups(self, images: Tensor) -> GroupEmbeddings:
        """(B, 3, H, W), any H and W -> the embeddings of each image and of each of its groups."""
        features = self.image(images)
        image, groups = self.image.project(features.pooled), self.image.project(features.groups)
        unit_groups = F.normalize(groups, dim=-1)
        return GroupEmbeddings(F.normalize(image, dim=-1), unit_groups, features.assignments, features.grid)

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the scales in [1, 100]."""
        super().clamp_logit_scale()
        if self.multi_label_logit_scale is not None:
            self.multi_label_logit_scale.clamp_(0, log(MAX_LOGIT_SCALE))


def default_preprocess(image_size: int) -> Preprocess:
    """What the release was trained and evaluated with; its Hugging Face files record other statistics."""
    return Preprocess(image_size, *STATISTICS['imagenet'], interpolation='bilinear')


@MODELS.register_module()
def build_group_vit(
    size: GroupVitSize | dict | str,
    background: bool | None = None,
    preprocess: Preprocess | None = None,
    **image_options: Any,
) -> GroupVit:
    """A GroupViT with random weights.

    Args:
        size: a ``GroupVitSize``, its dict, or a published name such as 'GroupViT-S-16'.
        background: whether there is a learned background embedding; as in ``size`` by default.
        preprocess: see ``GroupVit``.
        image_options: ``assign``, ``drop_path``, ``spread`` of the image tower.

    Raises:
        InputError: an unknown name.
    """
    if isinstance(size, str):
        size = GroupVitSize.named(size)
    elif isinstance(size, dict):
        size = GroupVitSize.from_dict(size)
    if background is not None:
        size = replace(size, background=background)
    image = GroupVitEncoder(size.image, **image_options)
    text = GroupVitText(size.text, size.image.projector_width)
    return GroupVit(
        image, text, multi_label=size.multi_label, background=size.background, preprocess=preprocess
    )
