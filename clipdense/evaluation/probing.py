"""Classification by the frozen image tower: a linear classifier, and the nearest training images.

n: training images, B: images, C: width of the features, K: classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.model import CLIP
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.utils.errors import InputError
from clipdense.utils.modules import evaluating
from clipdense.vocab.names import normalize

from .classification import TOP, accuracy, label_ranks
from .embedding import embedded_batches

Features = Literal['pooled', 'embeddings']
_DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_HELD_OUT = 5  # every fifth training image
_ITERATIONS = 200


class Probe:
    """Features of training and test images, and the report of a classifier on them.

    Args:
        train, dataset: labeled images of the same classes, or their configs.
        features: 'pooled', the output of the image tower before its projection, or 'embeddings'.
        batch_size: images per batch.
        num_workers: processes that read images.
        name: prefix of the names of the results.

    Raises:
        InputError: other classes, or unknown features.
    """

    def __init__(
        self, train: Any, dataset: Any, features: Features, batch_size: int, num_workers: int, name: str
    ) -> None:
        if features not in ('pooled', 'embeddings'):
            raise InputError(f"features must be 'pooled' or 'embeddings', got {features!r}")
        self.train, self.dataset = build(train, DATASETS), build(dataset, DATASETS)
        _check_names(self.train.class_names, self.dataset.class_names)
        self.features, self.batch_size, self.num_workers = features, batch_size, num_workers
        self.name = name

    def features_of(self, clip: CLIP, dataset: Any, part: str) -> tuple[Tensor, Tensor]:
        """(n, C) features and (n,) labels of the images that can be read, on the CPU.

        Args:
            clip: in evaluation mode, without gradients.
            dataset: labeled images.
            part: what they are, for messages.

        Raises:
            InputError: none can be read, or features that are not finite.
        """
        encode = clip.encode_image if self.features == 'embeddings' else clip.image.pooled
        rows, labels = [], []
        title = f'{self.name} ({part})'
        for found, batch in embedded_batches(clip, dataset, self.batch_size, self.num_workers, title, encode):
            known = torch.as_tensor(batch['labels']) >= 0
            rows.append(found.float().cpu()[known])
            labels.append(torch.as_tensor(batch['labels'])[known])
        if not sum(map(len, labels)):
            raise InputError(f'{title}: the dataset has no images that can be read')
        return torch.cat(rows), torch.cat(labels)

    def _both(self, clip: CLIP) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        with evaluating(clip):
            known, asked = (
                self.features_of(clip, self.train, 'training images'),
                self.features_of(clip, self.dataset, 'test images'),
            )
        if len(known[1].unique()) < 2:
            raise InputError(f'{self.name}: the training images have a single class; give at least two')
        return known, asked

    def report(self, scores: Tensor, labels: Tensor, **more: float) -> dict[str, float]:
        """Accuracies of scores (n, K) for labels (n,), under the name of the evaluation."""
        ranks = label_ranks(scores, labels)
        report = {f'top{k}': accuracy(ranks, k) for k in TOP if k == 1 or k < scores.shape[1]}
        report |= {'chance': 1 / len(self.train.class_names), 'count': len(labels), **more}
        return {f'{self.name}/{key}': value for key, value in report.items()}


@EVALUATIONS.register_module()
class LinearProbe(Probe):
    """Accuracy of a linear classifier on frozen features.

    Logistic regression by L-BFGS on the features of one center crop of each training image.  The weight decay
    is the best of ``decays`` on every fifth training image; then all of them are learned from.  The features
    are centered, and divided by their standard deviation over all images and dimensions.

    Args:
        train: labeled training images, items with ``images`` uint8 and ``labels``; or its config.
        dataset: labeled test images of the same classes, or its config.
        features: 'pooled', the output of the image tower before its projection, or 'embeddings'.
        decays: weight decays that are tried, of the mean loss.
        batch_size: images per batch.
        num_workers: processes that read images.
        name: prefix of the names of the results.

    Raises:
        InputError: other classes, a single class, or no weight decays.

    Source: Radford et al., arXiv 2103.00020, appendix A.3.  The published numbers of SLIP are those of 90
    epochs of SGD with random crops, which give other numbers.
    """

    def __init__(
        self,
        train: Any,
        dataset: Any,
        features: Features = 'pooled',
        decays: Sequence[float] = _DECAYS,
        batch_size: int = 256,
        num_workers: int = 0,
        name: str = 'linear_probe',
    ) -> None:
        super().__init__(train, dataset, features, batch_size, num_workers, name)
        if not decays or min(decays) < 0:
            raise InputError(f'decays must be numbers of at least 0, got {list(decays)}')
        self.decays = tuple(sorted(decays, reverse=True))

    def __call__(self, clip: CLIP) -> dict[str, float]:
        """Evaluate a model; its mode is restored.

        Returns:
            ``NAME/top1``, ``/top5`` (of more than 5 classes), ``/chance``, ``/count`` (test images) and
            ``/decay``, the chosen one.
        """
        (rows, labels), (asked, truth) = self._both(clip)
        center, spread = rows.mean(0), rows.std().clamp(min=1e-12)
        rows, asked = (rows - center) / spread, (asked - center) / spread
        classifier = LinearClassifier(rows.shape[1], len(self.train.class_names))
        decay = self.decays[0]
        if len(self.decays) > 1:
            held = torch.arange(len(rows)) % _HELD_OUT == 0
            scores = {}
            for one in self.decays:  # the largest first: each starts where the last one ended
                classifier.fit(rows[~held], labels[~held], one)
                scores[one] = accuracy(label_ranks(classifier(rows[held]), labels[held]), 1)
            decay = max(scores, key=lambda one: (scores[one], one))
        classifier.fit(rows, labels, decay)
        return self.report(classifier(asked), truth, decay=decay)


@EVALUATIONS.register_module()
class NearestNeighbors(Probe):
    """Accuracy of the vote of the k most similar training images (k-NN).

    Each neighbor votes with ``exp(cosine / temperature)``.

    Args:
        train, dataset, features, batch_size, num_workers, name: as in ``LinearProbe``.
        k: number of neighbors; all training images if there are fewer.
        temperature: of the votes.

    Raises:
        InputError: other classes, a single class, or k or temperature that is not above 0.

    Source: Wu et al., arXiv 1805.01978; facebookresearch/dino ``eval_knn.py``.
    """

    def __init__(
        self,
        train: Any,
        dataset: Any,
        features: Features = 'pooled',
        k: int = 20,
        temperature: float = 0.07,
        batch_size: int = 256,
        num_workers: int = 0,
        name: str = 'knn',
    ) -> None:
        super().__init__(train, dataset, features, batch_size, num_workers, name)
        if k < 1 or not temperature > 0:
            raise InputError(f'k must be at least 1 and temperature above 0, got {k!r} and {temperature!r}')
        self.k, self.temperature = k, temperature

    def __call__(self, clip: CLIP) -> dict[str, float]:
        """Evaluate a model; its mode is restored.

        Returns:
            ``NAME/top1``, ``/top5`` (of more than 5 classes), ``/chance`` and ``/count`` (test images).
        """
        (rows, labels), (asked, truth) = self._both(clip)
        rows, asked = F.normalize(rows, dim=-1), F.normalize(asked, dim=-1)
        votes = [
            self._votes(part @ rows.mT, labels, len(self.train.class_names))
            for part in asked.split(self.batch_size)
        ]
        return self.report(torch.cat(votes), truth)

    def _votes(self, cosines: Tensor, labels: Tensor, classes: int) -> Tensor:
        """(B, n) -> (B, K)."""
        near, index = cosines.topk(min(self.k, cosines.shape[1]), dim=1)
        weights = (near / self.temperature).softmax(dim=1)
        return weights.new_zeros(len(near), classes).scatter_add_(1, labels[index], weights)


def _check_names(train: Sequence[str], test: Sequence[str]) -> None:
    """Labels must mean the same classes in both datasets."""
    for label, (ours, theirs) in enumerate(zip_longest(train, test)):
        if ours is None or theirs is None or normalize(ours) != normalize(theirs):
            raise InputError(
                f'the training and the test images have different classes: label {label} is {ours!r} and '
                f'{theirs!r} ({len(train)} and {len(test)} classes)'
            )


class LinearClassifier:
    """Logistic regression: mean cross entropy plus ``decay / 2`` times the squared weights, by L-BFGS.

    Args:
        width: C.
        classes: K.
    """

    def __init__(self, width: int, classes: int) -> None:
        self.weight = torch.zeros(classes, width, requires_grad=True)
        self.bias = torch.zeros(classes, requires_grad=True)

    def __call__(self, rows: Tensor) -> Tensor:
        """(B, C) -> scores (B, K)."""
        return F.linear(rows, self.weight.detach(), self.bias.detach())

    def fit(self, rows: Tensor, labels: Tensor, decay: float) -> None:
        """Continue from the present weights to the minimum.

        Args:
            rows: (n, C).
            labels: (n,).
            decay: weight decay, not of the bias.
        """
        solver = torch.optim.LBFGS(
            [self.weight, self.bias], max_iter=_ITERATIONS, tolerance_grad=1e-5, line_search_fn='strong_wolfe'
        )

        def loss() -> float:
            solver.zero_grad()
            with torch.enable_grad():
                value = F.cross_entropy(F.linear(rows, self.weight, self.bias), labels)
                value = value + decay / 2 * self.weight.square().sum()
                value.backward()
            return float(value.detach())

        solver.step(loss)
