"""Dense CLIP embeddings, averaged over neighboring patches.  B: windows, (h, w): grid, D: joint space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.model import CLIP
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide


class Smoothed(SegmentationModel):
    """Each patch embedding is the mean over a square of patches around it."""

    def __init__(self, clip: CLIP, radius: int = 1) -> None:
        side = clip.image.size.image_size
        slide = Slide(short_side=side, window=side, stride=max(1, side // 2))
        super().__init__(clip.preprocess.mean, clip.preprocess.std, slide)
        self.clip, self.radius = clip, radius

    def encode_pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> unit embeddings (B, D, h, w)."""
        embeddings = self.clip.encode_dense(images)  # (B, D, h, w)
        size = 2 * self.radius + 1
        smooth = F.avg_pool2d(embeddings, size, 1, self.radius, count_include_pad=False)
        return F.normalize(smooth, dim=1)

    def classify_pixels(self, features: Tensor, text: Tensor) -> Tensor:
        """(B, D, h, w), (K, D) -> cosines (B, K, h, w)."""
        return torch.einsum('bdhw,kd->bkhw', features, text)


def build(clip: CLIP, name: str, options: Mapping[str, Any]) -> Smoothed:
    """The method on a CLIP, with the options that the command line or Python gave."""
    return Smoothed(clip, **options)
