"""What LSeg is compared with: the same network with a classifier that learned its classes.

B: images, (h, w): cells of the pixel map, K: classes that were learned, Q: queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.registry import CLASS_EMBEDDERS, MODELS
from clipdense.structures import ClassEmbeddings
from clipdense.vocab.vocabulary import Vocabulary, normalize

from .segmenter import LSeg, PixelMap

_NEVER = -1e4  # logit of a word that was not learned


class FilterHead(nn.Conv2d):
    """One filter a class; the same calls as ``CosineHead``."""

    def keep(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> logits (B, K, h, w)."""
        return self(features)

    def logits(self, kept: Tensor, text: Tensor) -> Tensor:
        """(B, K, h, w), one-hot rows (Q, K) -> (B, Q, h, w)."""
        return torch.einsum('bkhw,qk->bqhw', kept, text)


@MODELS.register_module()
class ClosedSetDPT(LSeg):
    """DPT with a closed head: backbone and decoder of LSeg, and one filter a class in place of words.

    It answers to any vocabulary: a word that it learned gets its filter, any other is never chosen.

    Args:
        class_names: the K classes.
        backbone, width, loss, statistics, lock_backbone: as in ``LSeg``.
        clip: lends its image tower to a backbone that names no network; its text tower is left behind.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        backbone: nn.Module | dict | None = None,
        clip: nn.Module | dict | str | None = None,
        width: int = 256,
        loss: dict[str, Any] | None = None,
        statistics: str = 'half',
        lock_backbone: bool = False,
    ) -> None:
        super().__init__(
            backbone,
            clip,
            embed_dim=len(class_names),
            width=width,
            temperature=1.0,
            loss=loss,
            statistics=statistics,
            lock_backbone=lock_backbone,
        )
        self.clip = None
        self.project = FilterHead(width, len(class_names), 1)
        self.class_names = tuple(class_names)

    def classify_pixels(self, features: PixelMap, text: Tensor) -> Tensor:
        """A pixel map, one-hot rows (Q, K) -> (B, Q, H, W)."""
        logits = super().classify_pixels(features, text)
        return logits.masked_fill((text == 0).all(dim=-1)[:, None, None], _NEVER)

    @property
    def embedder(self) -> OneHotEmbedder:
        """What stands in for a text tower."""
        return OneHotEmbedder(self.class_names)


@CLASS_EMBEDDERS.register_module()
class OneHotEmbedder:
    """A ``ClassEmbedder`` for a closed head: a one-hot row for each class that it learned.

    Args:
        class_names: the K classes.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """A one-hot row for each name that was learned, zeros for any other."""
        place = {normalize(name): at for at, name in enumerate(self.class_names)}
        rows = torch.zeros(len(vocabulary.queries), len(self.class_names))
        for row, (name, _) in enumerate(vocabulary.queries):
            if normalize(name) in place:
                rows[row, place[normalize(name)]] = 1
        query_class = torch.tensor([index for _, index in vocabulary.queries])
        return ClassEmbeddings(rows, query_class, len(vocabulary))
