"""Tip-Adapter: a cache of embeddings and their classes.

N: keys, C: classes of the cache, K: classes of a vocabulary, D: joint space.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.tasks.adapters import Adapter, Origin
from clipdense.utils.errors import InputError
from clipdense.utils.wording import counted
from clipdense.vocab.names import normalize, places
from clipdense.vocab.vocabulary import Vocabulary

from .affinity import class_affinity
from .writing import KEYS, LABELS, write_adapter

LARGEST = 1e6  # alpha or beta
_SHOWN = 10  # class names in a message


class KeyValueCache(Adapter):
    """Adds ``alpha * sum over the keys k of a class of exp(-beta (1 - x . k))`` to the logit of the class.

    Classes are looked up by name: a cache of A, B, C serves a vocabulary C, A, D, where D, without keys, has
    its zero-shot logit only.  A class of the vocabulary has the keys of its name and of its synonyms.

    Args:
        keys: (N, D); normalized here.
        labels: (N,), index in ``class_names`` of each key.
        class_names: C names.
        alpha: factor on the affinities, in units of the logits, from 0 to 1e6.
        beta: sharpness, above 0 and at most 1e6.
        balance: weight keys so that every class counts as much as a class with the mean number of keys;
            otherwise classes with more keys score higher.  The same if all classes have as many keys.
        origin: see ``Adapter``.

    Attributes:
        keys: (N, D) parameter, which is not trained before ``trainable()``.
        labels: (N,) int64.
        search: the ``SearchResult`` of alpha and beta; None without a search.

    Raises:
        InputError: keys that are not finite, zero or not (N, D); labels that are not classes; repeated names;
            alpha or beta out of range.

    Source: Zhang et al., Tip-Adapter (arXiv 2207.09519), section 3.
    """

    compares = True
    labels: Tensor

    def __init__(
        self,
        keys: Tensor,
        labels: Tensor,
        class_names: Sequence[str],
        alpha: float = 1.0,
        beta: float = 5.5,
        balance: bool = True,
        origin: Origin | None = None,
    ) -> None:
        self_names = Vocabulary(tuple(class_names)).class_names
        keys = checked_keys(keys)
        super().__init__(keys.shape[1], origin)
        self.class_names: tuple[str, ...] = self_names
        self.keys = nn.Parameter(keys, requires_grad=False)
        self.register_buffer('labels', _checked_labels(labels, len(keys), len(self_names)).to(keys.device))
        self.set_strength(alpha, beta)
        self.balance = balance
        self.search: Any = None
        self._said: set[str] = set()

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}({self._size()}, '
            f'alpha={self.alpha:g}, beta={self.beta:g}, {self.origin.kind})'
        )

    def _size(self) -> str:
        return f'{counted(len(self), "key")} of {counted(len(self.class_names), "class")}'

    def summary(self) -> str:
        """Numbers of keys and classes, alpha, beta, and what the search found."""
        found = self.counts
        least, most = int(found.min()), int(found.max())
        each = f'{least}' if least == most else f'{least} to {most}'
        several = f' ({each} each)' if len(self.class_names) > 1 else ''
        text = f'{self._size()}{several}, from {self.origin.kind}'
        text += f'; alpha {self.alpha:.3g}, beta {self.beta:.3g}'
        if self.search is None:
            return f'{text} (not searched: give validation examples)'
        one = self.search
        reached = one.best if one.trained is None else one.trained
        return f'{text}: {one.metric} {reached:.3f} of {one.count}, zero-shot {one.zero_shot:.3f}'

    def save(self, path: str | Path) -> None:
        """Write a self-describing file, see ``Adapter.save``."""
        searched = None if self.search is None else self.search.to_dict()
        settings = {**self.settings, 'search': searched}
        write_adapter(path, {KEYS: self.keys.detach(), LABELS: self.labels}, self.origin, settings)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that it was built with, without keys, labels and ``origin``."""
        return {name: getattr(self, name) for name in ('class_names', 'alpha', 'beta', 'balance')}

    def set_strength(self, alpha: float, beta: float) -> None:
        """Set alpha and beta.

        Raises:
            InputError: they are out of range.
        """
        for name, value in (('alpha', alpha), ('beta', beta)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not isfinite(value):
                raise InputError(f'{name} must be a finite number, got {value!r}')
        if alpha < 0:
            raise InputError(f'alpha must be at least 0, got {alpha!r}')
        if beta <= 0:
            raise InputError(f'beta must be above 0, got {beta!r}')
        if max(alpha, beta) > LARGEST:
            raise InputError(f'alpha and beta must be at most {LARGEST:g}, got {alpha:g} and {beta:g}')
        self.alpha, self.beta = float(alpha), float(beta)

    @property
    def counts(self) -> Tensor:
        """(C,) number of keys of each class."""
        return self.labels.bincount(minlength=len(self.class_names))

    def class_alpha(self) -> dict[str, float]:
        """The factor on a key of each class; alpha for all if the cache is not balanced."""
        counts = self.counts.double()
        factors = counts[counts > 0].mean() / counts.clamp(min=1) if self.balance else torch.ones_like(counts)
        return dict(zip(self.class_names, (self.alpha * factors).tolist(), strict=True))

    def add(self, keys: Tensor, names: str | Sequence[str]) -> KeyValueCache:
        """Add keys, of known or new classes; returns ``self``.

        Args:
            keys: (n, D); normalized here.
            names: class name of each key, or one for all.

        Raises:
            InputError: keys of another dimension, not finite or zero, or another number of names.
        """
        keys = checked_keys(keys).to(self.keys)
        if keys.shape[1] != self.embed_dim:
            raise InputError(
                f'the keys have dimension {keys.shape[1]}, those of the cache {self.embed_dim}: they are '
                'embeddings of other weights'
            )
        listed = [names] * len(keys) if isinstance(names, str) else list(names)
        if len(listed) != len(keys):
            raise InputError(f'got {len(listed)} class names for {len(keys)} keys: give one for each, or one')
        known = places(self.class_names)
        new = [name for key, name in {normalize(name): name for name in listed}.items() if key not in known]
        self.class_names = Vocabulary((*self.class_names, *new)).class_names
        known = places(self.class_names)
        labels = torch.tensor([known[normalize(name)] for name in listed], device=self.labels.device)
        trained = self.keys.requires_grad
        self.keys = nn.Parameter(torch.cat([self.keys.detach(), keys]), requires_grad=trained)
        self.labels = torch.cat([self.labels, labels])
        return self

    def trainable(self) -> KeyValueCache:
        """Train the keys (Tip-Adapter-F); they are not normalized again.  Returns ``self``."""
        self.keys.requires_grad_(True)
        return self

    def scores(
        self, embeddings: Tensor, vocabulary: Vocabulary, classes: Tensor | None = None
    ) -> Tensor | None:
        """Unit embeddings (..., D) -> (..., K), see ``Adapter.scores``.

        Raises:
            InputError: no class of the vocabulary has keys.

        Warns:
            UserWarning: classes of the vocabulary without keys, once.
        """
        sums = self.affinities(embeddings, self.beta, vocabulary, classes)
        return sums * self.alpha

    def affinities(
        self, embeddings: Tensor, beta: float, vocabulary: Vocabulary, classes: Tensor | None = None
    ) -> Tensor:
        """``scores`` with alpha = 1 and this beta."""
        device, count = embeddings.device, len(vocabulary)
        asked, place = torch.arange(count), None
        if classes is not None:
            asked, place = classes.cpu().unique(return_inverse=True)
        column = torch.full((count + 1,), -1)
        column[asked] = torch.arange(len(asked))  # the last entry stands for classes outside the vocabulary
        column = column[self._vocabulary_class(vocabulary)].to(self.labels.device)[self.labels]  # (N,)
        kept = column >= 0
        weights = self._key_weights()[kept]
        sums = class_affinity(
            embeddings,
            self.keys[kept].to(device, embeddings.dtype),
            column[kept].to(device),
            weights.to(device, embeddings.dtype),
            beta,
            len(asked),
        )
        return sums if place is None else sums[..., place.to(device)]

    def _key_weights(self) -> Tensor:
        """(N,) factor of each key."""
        if not self.balance:
            return torch.ones(len(self), device=self.labels.device)
        counts = self.counts.double()
        return (counts[counts > 0].mean() / counts)[self.labels].float()

    def classes_in(self, vocabulary: Vocabulary) -> set[int]:
        """Indices of the classes of a vocabulary that have keys."""
        found = self._places(vocabulary)
        return {found[label] for label in self.labels.unique().tolist()} - {-1}

    def _places(self, vocabulary: Vocabulary) -> list[int]:
        """(C,) index in the vocabulary of each class of the cache; -1 for classes that it lacks."""
        known = {normalize(name): index for index, name in enumerate(vocabulary.class_names)}
        for word, index in vocabulary.queries:
            known.setdefault(normalize(word), index)
        return [known.get(normalize(name), -1) for name in self.class_names]

    def _vocabulary_class(self, vocabulary: Vocabulary) -> Tensor:
        """``_places``; what has no keys is said."""
        self._report(vocabulary, self.classes_in(vocabulary))
        return torch.tensor(self._places(vocabulary))

    def _report(self, vocabulary: Vocabulary, present: set[int]) -> None:
        if not present:
            raise InputError(
                f'no class has keys in the cache, which has {_listed(self.class_names)}; the classes are '
                f'{_listed(vocabulary.class_names)}: use class names of the cache, or leave out the adapter'
            )
        missing = [name for index, name in enumerate(vocabulary.class_names) if index not in present]
        new = [name for name in missing if name not in self._said]
        if new:
            self._said.update(new)
            warnings.warn(f'the cache has no keys of {_listed(new)}: zero-shot logits only')


def checked_keys(keys: Any) -> Tensor:
    """Embeddings (N, D) -> unit fp32 keys without gradients.

    Raises:
        InputError: not (N, D), without rows, not finite, or a row of zeros.
    """
    if not isinstance(keys, Tensor) or keys.ndim != 2 or not keys.is_floating_point() or 0 in keys.shape:
        what = (
            f'{keys.dtype} of shape {tuple(keys.shape)}' if isinstance(keys, Tensor) else type(keys).__name__
        )
        raise InputError(f'keys must be floating-point embeddings (N, D) with at least one row, got {what}')
    keys = keys.detach().float()
    bad = (~keys.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f'{len(bad)} of {len(keys)} keys are NaN or infinite (row {bad[0]}): the weights are damaged, or '
            'the precision is too low'
        )
    empty = (keys.norm(dim=1) == 0).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            f'{len(empty)} of {len(keys)} keys are zero (row {empty[0]}): they have no direction'
        )
    return F.normalize(keys, dim=1)


def _checked_labels(labels: Any, count: int, num_classes: int) -> Tensor:
    labels = torch.as_tensor(labels)
    if labels.shape != (count,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(
            f'labels must be {count} integers, one for each key, got {labels.dtype} of shape '
            f'{tuple(labels.shape)}'
        )
    labels = labels.long()
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise InputError(
            f'labels must be from 0 to {num_classes - 1} for {num_classes} class names, got '
            f'{int(labels.min())} to {int(labels.max())}'
        )
    return labels


def _listed(names: Sequence[str]) -> str:
    shown = ', '.join(names[:_SHOWN])
    return f'{shown}, ... ({len(names)})' if len(names) > _SHOWN else shown
