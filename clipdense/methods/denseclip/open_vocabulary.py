"""An open-vocabulary DenseCLIP: no part of it has a width of K.

B: images, (H, W): pixels, (h, w): cells, D: joint space, K: classes, W: width of the FPN, C: hidden channels.

The published model concatenates the score map to a map of the backbone, which fixes the classes.  Here the
FPN sees the image alone, and its pixels are compared with the adapted class embeddings; what the score map
adds is computed for each class by the same small network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.padding import pad_to_multiple
from clipdense.registry import MODELS
from clipdense.structures import SegmentationSample
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError

from .base import ContextAware, expanded
from .context_decoder import score_map
from .contexts import ContextEmbedder, embed_names
from .fpn import FPN, FuseLevels, resized

Features = tuple[Tensor, Tensor, Tensor, Tensor]  # FPN, pooled, local, sizes


class ClassWise(nn.Module):
    """Score map and similarity of a class, and the image -> a correction of its logit; shared by the classes.

    Args:
        width: W.
        hidden: C.
    """

    def __init__(self, width: int, hidden: int = 8) -> None:
        super().__init__()
        self.image = nn.Conv2d(width, hidden, 1)
        self.scores = nn.Conv2d(2, hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, 1, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, fused: Tensor, similarity: Tensor, scores: Tensor) -> Tensor:
        """(B, W, h, w), (B, K, h, w), (B, K, h, w) -> (B, K, h, w)."""
        batch, classes = similarity.shape[:2]
        pairs = torch.stack([similarity, scores], dim=2).flatten(0, 1)  # (B K, 2, h, w)
        image = self.image(fused)[:, None]  # (B, 1, C, h, w)
        hidden = F.gelu(self.scores(pairs).unflatten(0, (batch, classes)) + image)
        return self.out(hidden.flatten(0, 1)).view(batch, classes, *similarity.shape[2:])


@MODELS.register_module()
class OpenContextAwareSegmenter(ContextAware):
    """DenseCLIP's context decoder and score map for any class names.

    In the context decoder classes attend to the image only, so that the logit of a class does not depend on
    the other names, and large vocabularies are processed in chunks.

    Args:
        clip, backbone, decoder, loss, statistics, slide: see ``ContextAware``.
        n_ctx: learned context tokens; 0, names as they are, by default: learned ones fit the classes of the
            training.
        width: W, channels of the FPN.
        temperature: divisor of all cosines.

    Raises:
        InputError: as ``ContextAware``.
    """

    joint_over_classes = False

    def __init__(
        self,
        clip: nn.Module | dict | str,
        backbone: Mapping[str, Any] | None = None,
        n_ctx: int = 0,
        width: int = 256,
        decoder: Mapping[str, Any] | None = None,
        temperature: float = 0.07,
        loss: Mapping[str, Any] | None = None,
        statistics: str = 'openai',
        slide: Slide | dict | None = None,
    ) -> None:
        if (decoder or {}).get('class_attention'):
            raise InputError(
                'the classes of an open vocabulary do not attend to each other: remove class_attention'
            )
        decoder = {**(decoder or {}), 'class_attention': False}
        super().__init__(clip, backbone, n_ctx, decoder, temperature, loss, statistics, slide)
        self.neck = FPN(self.backbone.channels, width)
        self.fuse = FuseLevels(width)
        self.dropout = nn.Dropout2d(0.1)
        self.project = nn.Conv2d(width, self.clip.embed_dim, 1)
        self.correct = ClassWise(width)

    @property
    def embedder(self) -> ContextEmbedder | None:
        """The ``ClassEmbedder`` with the learned contexts; None without contexts."""
        return None if self.contexts is None else ContextEmbedder(self.clip, self.contexts)

    def encode_pixels(self, images: Tensor) -> Features:
        """(B, 3, H, W) of any size -> the map of the FPN, image and local embeddings, sizes of the images."""
        sizes = torch.tensor([images.shape[-2:]]).expand(len(images), 2)
        stages = self.backbone(pad_to_multiple(images, self.backbone.stride))
        fused = self.dropout(self.fuse(self.neck(stages.maps)))  # (B, W, h, w)
        return fused, stages.pooled, stages.local, sizes

    def classify_pixels(self, features: Features, text: Tensor) -> Tensor:
        """Features, (K, D) or (B, K, D) -> logits (B, K, H, W)."""
        return self.to_image(self.decode(features, text)[0], features[-1])

    def decode(self, features: Features, text: Tensor) -> tuple[Tensor, Tensor]:
        """Features, (K, D) or (B, K, D) -> logits (B, K, h, w) at stride 4, score map (B, K, h', w')."""
        fused, pooled, local = (part.to(self.gamma.dtype) for part in features[:-1])
        text = self.adapt_text(expanded(text.to(fused.dtype), len(fused)), pooled, local)  # (B, K, D)
        scores = score_map(local, text)  # (B, K, h', w')
        similarity = score_map(self.project(fused), text)  # (B, K, h, w)
        correction = self.correct(fused, similarity, resized(scores, fused.shape[-2:]))
        return similarity / self.temperature + correction, scores

    def loss(
        self, images: Tensor | Sequence[Tensor], samples: Sequence[SegmentationSample]
    ) -> dict[str, Tensor]:
        """Images of one size and their masks -> ``loss_mask`` and ``loss_identity``.

        Raises:
            InputError: as ``training_batch``.
        """
        images, labels = self.training_batch(images, samples)
        features = self.encode_pixels(images)
        both = self.decode(features, self._training_text())
        logits, scores = (self.to_image(one.float(), features[-1]) for one in both)
        return self.losses(logits, scores, labels)

    def _training_text(self) -> Tensor:
        """(Q, D), with gradients to the contexts."""
        if self.contexts is None or self.vocabulary is None:
            return self._text()
        names = [name for name, _ in self.vocabulary.queries]
        return F.normalize(embed_names(self.clip, names, self.contexts), dim=-1)
