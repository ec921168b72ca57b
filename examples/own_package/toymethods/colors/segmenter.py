"""One layer from colors to the joint space.  B: images, D: joint space, K: classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.frozen_text import FrozenText
from clipdense.structures import SegmentationSample
from clipdense.tasks.segmentation import SegmentationModel


class Colors(SegmentationModel):
    """Pixel embeddings are a linear function of the color; class names come from a frozen text tower."""

    method = 'colors'
    templates = 'name'

    def __init__(self, clip: FrozenText) -> None:
        super().__init__((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), logit_scale=1.0)
        self.clip = clip
        self.colors = nn.Conv2d(3, clip.embed_dim, 1)

    def encode_pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> unit embeddings (B, D, H, W)."""
        return F.normalize(self.colors(images), dim=1)

    def classify_pixels(self, features: Tensor, text: Tensor) -> Tensor:
        """(B, D, H, W), (K, D) -> logits (B, K, H, W)."""
        return 10 * torch.einsum('bdhw,kd->bkhw', features, text)

    def loss(self, images: Tensor, samples: Sequence[SegmentationSample]) -> dict[str, Any]:
        """Cross entropy against the masks of the samples."""
        labels = torch.stack([sample.mask for sample in samples if sample.mask is not None])
        logits = self.classify_pixels(self.encode_pixels(images), self.queries)
        return {'loss': F.cross_entropy(logits, labels.long(), ignore_index=255)}
