"""A closed-set baseline of LSeg: the same network with a trained classifier.

B: images, (h, w): cells of the pixel map, K: training classes, Q: queries.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.registry import CLASS_EMBEDDERS, MODELS
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import nearest
from clipdense.utils.wording import counted
from clipdense.vocab.names import normalize, places
from clipdense.vocab.vocabulary import Vocabulary

from .segmenter import LSeg, PixelMap

_NEVER = -1e4  # logit of a class name that is not a training class


class FilterHead(nn.Conv2d):
    """One filter per class; the same interface as ``CosineHead``."""

    def keep(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> logits (B, K, h, w)."""
        return self(features)

    def logits(self, kept: Tensor, text: Tensor) -> Tensor:
        """(B, K, h, w), one-hot rows (Q, K) -> (B, Q, h, w)."""
        return torch.einsum('bkhw,qk->bqhw', kept, text)


@MODELS.register_module()
class ClosedSetDPT(LSeg):
    """Backbone and decoder of LSeg with one filter per class instead of text embeddings.

    It accepts any vocabulary: a training class uses its filter, other class names are never predicted.

    Args:
        class_names: the K training classes.
        backbone, width, loss, statistics, lock_backbone: as in ``LSeg``.
        clip: provides the image tower for a backbone without a network; its text tower is not used.
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
        """The ``ClassEmbedder``, used instead of a text tower."""
        return OneHotEmbedder(self.class_names)


@CLASS_EMBEDDERS.register_module()
class OneHotEmbedder:
    """A ``ClassEmbedder`` for a closed-set head: a one-hot row for each training class.

    Args:
        class_names: the K training classes.
    """

    uses_templates = False

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """A one-hot row for each training class, zeros for other names."""
        place = places(self.class_names)
        unknown = [name for name, _ in vocabulary.queries if normalize(name) not in place]
        if unknown:
            warnings.warn(
                f'{counted(len(unknown), "class name")} not in the training, and never predicted, such as '
                f'{unknown[0]!r}.{nearest(unknown[0], self.class_names)}'
            )
        rows = torch.zeros(len(vocabulary.queries), len(self.class_names))
        for row, (name, _) in enumerate(vocabulary.queries):
            if normalize(name) in place:
                rows[row, place[normalize(name)]] = 1
        query_class = torch.tensor([index for _, index in vocabulary.queries])
        return ClassEmbeddings(rows, query_class, len(vocabulary))
