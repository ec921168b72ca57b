"""Data structures shared across packages.

B: images, N: patches, (h, w): patch grid, (H, W): pixels, C: encoder width, D: joint space, K: classes,
Q: queries, T: prompt templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class ImageFeatures(NamedTuple):
    """Output of an image tower."""

    pooled: Tensor  # (B, C)     class token or attention pool, before projection
    patch_tokens: Tensor  # (B, N, C)  row-major grid
    grid: tuple[int, int]  # (h, w), N = h * w


@dataclass(frozen=True)
class ClassEmbeddings:
    """Embeddings of the queries of a vocabulary, and the class of each query.

    A class has one query, or one for each of its synonyms; its score is the maximum over its queries.

    Args:
        queries: (Q, D), unit norm.
        query_class: (Q,), class index of each query, every class at least once.
        num_classes: K.
        templates: (Q, T, D), the embedding of each prompt of a query, for methods that need them; None if not
            stored.

    Raises:
        ValueError: inconsistent shapes, or a class without a query.
    """

    queries: Tensor
    query_class: Tensor
    num_classes: int
    templates: Tensor | None = None

    def __post_init__(self) -> None:
        if self.queries.ndim != 2 or self.query_class.shape != self.queries.shape[:1]:
            raise ValueError(
                f'queries must be (Q, D) and query_class (Q,), got {tuple(self.queries.shape)} '
                f'and {tuple(self.query_class.shape)}'
            )
        if self.templates is not None and (
            self.templates.ndim != 3 or self.templates[:, 0].shape != self.queries.shape
        ):
            raise ValueError(
                f'templates must be (Q, T, D) for queries {tuple(self.queries.shape)}, got '
                f'{tuple(self.templates.shape)}'
            )
        present = set(self.query_class.tolist())
        if present != set(range(self.num_classes)):
            missing = sorted(set(range(self.num_classes)) - present)
            raise ValueError(
                f'query_class must have every class 0 to {self.num_classes - 1} and no other; '
                f'missing: {missing[:10]}'
            )

    @property
    def has_synonyms(self) -> bool:
        """Whether a class has more than one query, or the queries are not in class order."""
        order = torch.arange(self.num_classes, device=self.query_class.device)
        return not torch.equal(self.query_class, order)

    def class_scores(self, query_scores: Tensor, dim: int = -1) -> Tensor:
        """Scores of queries -> scores of classes, see ``best_of_queries``."""
        return best_of_queries(query_scores, self.query_class, self.num_classes, dim)

    def to(self, device: torch.device | str) -> ClassEmbeddings:
        """The same tensors on another device."""
        templates = None if self.templates is None else self.templates.to(device)
        return ClassEmbeddings(
            self.queries.to(device), self.query_class.to(device), self.num_classes, templates
        )


def best_of_queries(scores: Tensor, query_class: Tensor, num_classes: int, dim: int = -1) -> Tensor:
    """Scores of queries -> scores of classes: the maximum over the queries of each class.

    Args:
        scores: Q along ``dim``.
        query_class: (Q,), class index of each query.
        num_classes: K.
        dim: the dimension of the queries.

    Returns:
        K along ``dim``.
    """
    dim = dim % scores.ndim
    shape = [*scores.shape[:dim], num_classes, *scores.shape[dim + 1 :]]
    index = query_class.to(scores.device).view(-1, *[1] * (scores.ndim - 1 - dim)).expand_as(scores)
    return scores.new_full(shape, -torch.inf).scatter_reduce(dim, index, scores, 'amax')


@dataclass
class SegmentationSample:
    """An image of a segmentation dataset with its mask and, after prediction, its result.

    Args:
        image_path: of the image file; empty for images created in memory.
        size: (H, W) in pixels, as displayed (after EXIF rotation).
        mask: (H, W) class indices, with ``ignore_index`` where unlabeled.
        prediction: (H, W) predicted class indices.
    """

    image_path: str
    size: tuple[int, int]
    mask: Tensor | None = None
    prediction: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ('mask', 'prediction'):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != tuple(self.size):
                raise ValueError(
                    f'{name} of {self.image_path} has shape {tuple(value.shape)}, but the image {self.size}'
                )
