"""Adapters: what changes the embeddings and class scores of a frozen model, in every task.

...: any leading dimensions (images, pixels, regions), D: joint space, K: classes, Q: queries.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn

from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import weights_digest

Kind = Literal['images', 'pixels', 'regions']


@dataclass(frozen=True)
class Origin:
    """What an adapter was made for.

    Args:
        weights: digest of the weights that embedded its images, see ``source_digest``; empty if unknown.
        kind: what was embedded: whole images, pixels or regions.
        method: name of the method that embedded pixels or regions.

    Raises:
        InputError: an unknown kind.
    """

    weights: str = ''
    kind: Kind = 'images'
    method: str = ''

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f'kind must be one of {", ".join(get_args(Kind))}, got {self.kind!r}')


class Adapter(nn.Module):
    """Base of adapters; changes nothing.

    Classifiers, segmenters and detectors change class embeddings by ``adapt_queries``, unit embeddings of
    images, pixels or regions by ``adapt_embeddings``, and add ``scores`` to their logits.

    Args:
        embed_dim: D; None for any.
        origin: what it was made for.

    Attributes:
        compares: whether it compares embeddings with others, which should then be of the same kind.
    """

    compares = False

    def __init__(self, embed_dim: int | None = None, origin: Origin | None = None) -> None:
        super().__init__()
        self.embed_dim, self.origin = embed_dim, origin or Origin()

    def summary(self) -> str:
        """What a person wants to know of it, in one line."""
        return f'{type(self).__name__}, {self.origin.kind}'

    def save(self, path: str | Path) -> None:
        """Write a self-describing file that ``adapter=`` takes.

        Raises:
            InputError: an adapter without a file format, a name that is not ``.safetensors``, or a disk that
                is full or not writable.
        """
        raise InputError(f'a {type(self).__name__} cannot be saved')

    def adapt_embeddings(self, embeddings: Tensor) -> Tensor:
        """Unit embeddings (..., D) -> unit embeddings (..., D)."""
        return embeddings

    def adapt_queries(self, queries: Tensor) -> Tensor:
        """Unit class embeddings (Q, D) -> unit class embeddings (Q, D)."""
        return queries

    def scores(
        self, embeddings: Tensor, vocabulary: Vocabulary, classes: Tensor | None = None
    ) -> Tensor | None:
        """What is added to the logits: unit embeddings (..., D) -> (..., K); None for nothing.

        Args:
            embeddings: after ``adapt_embeddings``.
            vocabulary: the classes.
            classes: (n,) class indices; only their scores are computed, (..., n).
        """
        return None


def embedding_source(model: Any) -> nn.Module:
    """The module whose weights embed images: ``model.embedding_source``, or the model."""
    return getattr(model, 'embedding_source', model)


def source_digest(model: Any) -> str:
    """SHA-256 over the weights that embed images; class names are no part of it."""
    return weights_digest(embedding_source(model).state_dict())


def check_adapter(adapter: Any, model: Any, kind: Kind) -> None:
    """Check that an adapter belongs to a model.

    Args:
        adapter: the adapter.
        model: a CLIP, segmenter or detector.
        kind: what the model embeds.

    Raises:
        InputError: not an adapter, or one of other weights.

    Warns:
        UserWarning: its embeddings are of another kind than the model's.
    """
    if not isinstance(adapter, Adapter):
        raise InputError(f'an adapter must be an Adapter, or a file of one, got {type(adapter).__name__}')
    source, origin = embedding_source(model), adapter.origin
    dim = getattr(source, 'embed_dim', None) or getattr(getattr(model, 'clip', None), 'embed_dim', None)
    if None not in (adapter.embed_dim, dim) and adapter.embed_dim != dim:
        raise InputError(
            f'the adapter is for embeddings of dimension {adapter.embed_dim}, the model has {dim}: '
            'it belongs to other weights'
        )
    if origin.weights and origin.weights != source_digest(model):
        dtype = next(source.parameters()).dtype
        raise InputError(
            f'the adapter belongs to other weights than these ({origin.weights[:12]}..., not those of the '
            f'{type(source).__name__} in {dtype}): use the weights that it was made with, or make it again'
        )
    own = getattr(model, 'method', '')
    if origin.weights and (origin.kind != kind or origin.method != own) and adapter.compares:
        made = f'{origin.kind}{f" ({origin.method})" if origin.method else ""}'
        used = f'{kind}{f" ({own})" if own else ""}'
        warnings.warn(
            f'the adapter was made from embeddings of {made} and is used for {used}, which may not fit'
        )
