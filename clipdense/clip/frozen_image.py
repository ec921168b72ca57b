"""The image tower of a CLIP as a frozen module.  B: images, D: joint space, (h, w): patch grid."""

from __future__ import annotations

from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.registry import MODELS, build_module

from .dense import Tower, encode_dense
from .model import MAX_LOGIT_SCALE
from .preprocess import Preprocess


@MODELS.register_module()
class FrozenImage(nn.Module):
    """An image tower with its preprocessing, without gradients and always in evaluation mode.

    Class embeddings for it are made elsewhere, by the text tower of the same CLIP (``FrozenText``).

    Args:
        image: an image tower or its config.
        preprocess: preprocessing of the images; OpenAI's at the image size of the tower by default.
        scale_known: whether the weights have the factor on the cosines, which is assumed otherwise.

    Attributes:
        logit_scale: logarithm of this factor.
    """

    tower = 'image'

    def __init__(
        self,
        image: Tower | dict,
        preprocess: Preprocess | None = None,
        scale_known: bool = True,
    ) -> None:
        super().__init__()
        self.image: Tower = build_module(image)
        self.logit_scale = nn.Parameter(torch.tensor(log(MAX_LOGIT_SCALE)))
        self.scale_known = scale_known
        self.preprocess = preprocess or Preprocess.named('openai', self.image.size.image_size)
        self.requires_grad_(False).eval()

    @property
    def config(self) -> dict[str, Any]:
        """Config that builds this module with new weights."""
        return {'type': FrozenImage, 'image': self.image.config}

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.image.size.embed_dim

    def train(self, mode: bool = True) -> FrozenImage:
        """Stay in evaluation mode."""
        return super().train(False)

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """(B, 3, H, W), any H and W -> (B, D)."""
        embeddings = self.image.project(self.image.pooled(images))
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def encode_dense(self, images: Tensor, normalize: bool = False) -> Tensor:
        """(B, 3, H, W), any H and W -> pixel embeddings (B, D, h, w), see ``CLIP.encode_dense``."""
        embeddings = encode_dense(self.image, images)
        return F.normalize(embeddings, dim=1) if normalize else embeddings
