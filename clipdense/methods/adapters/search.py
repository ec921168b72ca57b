"""Search of alpha and beta on a validation set.  n: validation items, K: classes, D: joint space."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .cache import LARGEST, KeyValueCache

Metric = Literal['accuracy', 'mean_iou']
_WIDER = 5  # times that a grid is doubled


@dataclass(frozen=True)
class Grid:
    """Values of alpha and beta: ``0.1 + i * (high - 0.1) / steps`` for i < steps, as in the released code.

    Args:
        beta: high of beta.
        alpha: high of alpha.
        beta_steps, alpha_steps: number of values.

    Raises:
        InputError: an end that is not above 0.1, or no steps.
    """

    beta: float = 7.0
    alpha: float = 3.0
    beta_steps: int = 50
    alpha_steps: int = 50

    def __post_init__(self) -> None:
        for name in ('beta', 'alpha'):
            value, steps = getattr(self, name), getattr(self, f'{name}_steps')
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0.1 < value <= LARGEST:
                raise InputError(f'the end of the grid of {name} must be a number above 0.1, got {value!r}')
            if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
                raise InputError(f'{name}_steps must be a whole number of at least 1, got {steps!r}')

    def values(self, name: Literal['alpha', 'beta']) -> list[float]:
        """The values of alpha or beta."""
        high, steps = getattr(self, name), getattr(self, f'{name}_steps')
        return [0.1 + index * (high - 0.1) / steps for index in range(steps)]


@dataclass(frozen=True)
class SearchResult:
    """What was tried, and what was best.

    Args:
        metric: 'accuracy' or 'mean_iou', 0 to 1.
        betas, alphas: the grid.
        values: metric by beta and alpha.
        zero_shot: metric without the cache.
        count: validation items.
        trained: metric of keys that were trained after the search, if they were.
    """

    metric: str
    betas: list[float]
    alphas: list[float]
    values: list[list[float]]
    zero_shot: float
    count: int
    trained: float | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Indices of the best beta and alpha; the first of equal ones."""
        best = torch.tensor(self.values, dtype=torch.float64).flatten().argmax().item()
        return divmod(int(best), len(self.alphas))

    @property
    def beta(self) -> float:
        """The best beta."""
        return self.betas[self.place[0]]

    @property
    def alpha(self) -> float:
        """The best alpha."""
        return self.alphas[self.place[1]]

    @property
    def best(self) -> float:
        """The best value of the metric."""
        beta, alpha = self.place
        return self.values[beta][alpha]

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> SearchResult:
        """What ``to_dict`` returned.

        Raises:
            KeyError: an entry is missing.
        """
        required = (one.name for one in fields(cls) if one.default is MISSING)
        return cls(**{name: given[name] for name in required}, trained=given.get('trained'))

    def to_dict(self) -> dict[str, Any]:
        """As plain data, with the optimum."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**own, 'beta': self.beta, 'alpha': self.alpha, 'best': self.best}


@dataclass(frozen=True)
class Validation:
    """Labeled embeddings that alpha and beta are chosen with.

    They must be neither the images of the cache, whose affinity with themselves is 1, nor the test set, whose
    score would then say nothing about new images.

    Args:
        embeddings: (n, D) unit embeddings.
        labels: (n,) class indices of the vocabulary.
        logits: (n, K) zero-shot logits, as the model scales them.
        vocabulary: the classes.
        metric: of items; 'mean_iou' over the classes that occur, for pixels.

    Raises:
        InputError: inputs that do not fit, are empty or not finite, or an unknown metric.
    """

    embeddings: Tensor
    labels: Tensor
    logits: Tensor
    vocabulary: Vocabulary
    metric: Metric = 'accuracy'

    def __post_init__(self) -> None:
        count, classes = len(self.embeddings), len(self.vocabulary)
        if self.metric not in ('accuracy', 'mean_iou'):
            raise InputError(f"metric must be 'accuracy' or 'mean_iou', got {self.metric!r}")
        if not count:
            raise InputError('the validation set is empty')
        if self.embeddings.ndim != 2 or self.labels.shape != (count,):
            raise InputError(
                f'validation needs embeddings (n, D) and labels (n,), got {tuple(self.embeddings.shape)} and '
                f'{tuple(self.labels.shape)}'
            )
        if self.logits.shape != (count, classes):
            raise InputError(f'zero-shot logits must be {(count, classes)}, got {tuple(self.logits.shape)}')
        if not self.embeddings.isfinite().all() or not self.logits.isfinite().all():
            raise InputError('validation embeddings or logits are NaN or infinite: the weights are damaged')
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= classes:
            raise InputError(
                f'validation labels must be from 0 to {classes - 1}, got {int(self.labels.min())} to '
                f'{int(self.labels.max())}: the validation set has other classes'
            )

    def score(self, logits: Tensor) -> float:
        """The metric of logits (n, K), 0 to 1."""
        measure = _accuracy if self.metric == 'accuracy' else _mean_iou
        return measure(logits.argmax(1), self.labels, len(self.vocabulary))


@torch.no_grad()
def search(cache: KeyValueCache, validation: Validation, grid: Grid | None = None) -> SearchResult:
    """Try all pairs of a grid on a validation set, and set the best on the cache.

    Args:
        cache: its ``alpha``, ``beta`` and ``search`` are set.
        validation: what is tried on.
        grid: what is tried.

    Raises:
        InputError: embeddings of another dimension.

    Warns:
        UserWarning: classes without validation items, an optimum at the end of the grid, or one that is no
            better than zero-shot.
    """
    _check_dimension(cache, validation)
    grid = grid or Grid()
    betas, alphas = grid.values('beta'), grid.values('alpha')
    values = []
    for beta in betas:
        added = cache.affinities(validation.embeddings, beta, validation.vocabulary)  # (n, K)
        values.append([validation.score(validation.logits + added * alpha) for alpha in alphas])
    zero_shot, count = validation.score(validation.logits), len(validation.labels)
    result = SearchResult(validation.metric, betas, alphas, values, zero_shot, count)
    cache.set_strength(result.alpha, result.beta)
    cache.search = result
    _warn(result, validation)
    return result


def search_widely(cache: KeyValueCache, validation: Validation, grid: Grid | None = None) -> SearchResult:
    """``search``, with a grid that is doubled, five times at most, while the optimum is at its end."""
    grid = grid or Grid()
    for _ in range(_WIDER):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            found = search(cache, validation, grid)
        ends = {name: getattr(found, name) == getattr(found, f'{name}s')[-1] for name in ('alpha', 'beta')}
        if not any(ends.values()):
            break
        grid = replace(grid, **{name: 2 * getattr(grid, name) for name, at_end in ends.items() if at_end})
    return search(cache, validation, grid)


@torch.no_grad()
def score_trained(cache: KeyValueCache, validation: Validation) -> SearchResult:
    """Record what keys reach that were trained after the search, with the alpha and beta that it found."""
    added = cache.scores(validation.embeddings, validation.vocabulary)
    assert added is not None
    cache.search = replace(cache.search, trained=validation.score(validation.logits + added))
    return cache.search


def _accuracy(found: Tensor, labels: Tensor, num_classes: int) -> float:
    return (found == labels).double().mean().item()


def _mean_iou(found: Tensor, labels: Tensor, num_classes: int) -> float:
    table = (labels * num_classes + found).bincount(minlength=num_classes**2).view(num_classes, num_classes)
    union = table.sum(0) + table.sum(1) - table.diagonal()
    present = table.sum(1) > 0
    return (table.diagonal()[present] / union[present]).double().mean().item()


def _check_dimension(cache: KeyValueCache, validation: Validation) -> None:
    found = validation.embeddings.shape[1]
    if found != cache.embed_dim:
        raise InputError(f'validation embeddings have dimension {found}, the keys {cache.embed_dim}')


def _warn(result: SearchResult, validation: Validation) -> None:
    vocabulary, present = validation.vocabulary, set(validation.labels.tolist())
    absent = [name for index, name in enumerate(vocabulary.class_names) if index not in present]
    if absent:
        shown = ', '.join(absent[:10]) + (', ...' if len(absent) > 10 else '')
        warnings.warn(
            f'{len(absent)} of {len(vocabulary)} classes are not in the validation set: {shown}; alpha and '
            'beta are chosen for the others'
        )
    for name in ('alpha', 'beta'):
        values = getattr(result, f'{name}s')
        if len(values) > 1 and getattr(result, name) == values[-1]:
            warnings.warn(f'the best {name} ({values[-1]:.4g}) is the largest of the grid: try larger ones')
    if result.best <= result.zero_shot:
        warnings.warn(
            f'the cache does not improve the validation set: {result.metric} {result.best:.3f}, '
            f'zero-shot {result.zero_shot:.3f}'
        )
