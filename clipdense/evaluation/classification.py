"""Zero-shot classification.

B: images, K: classes, Q: queries (a class name, or one of its synonyms), D: joint space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.clip.model import CLIP
from clipdense.data.classification.datasets import UNREADABLE
from clipdense.data.classification.names import check_order
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.utils.modules import evaluating
from clipdense.vocab.vocabulary import Vocabulary

from .embedding import embedded_batches

TOP = (1, 5)


@EVALUATIONS.register_module()
class ZeroShotClassification:
    """Zero-shot accuracy on labeled images, by class names.

    Source: Radford et al., arXiv 2103.00020, section 3.1; with the 'imagenet' templates it is the protocol of
    the published ImageNet numbers.

    Args:
        dataset: items with ``images`` uint8 and ``labels``, -1 for images to skip; or its config.
        templates: prompt templates, by name or as texts with ``{}``.
        class_names: K names or a vocabulary, instead of ``dataset.class_names``.
        batch_size: images, and texts, per batch.
        name: prefix of the names of the results.
        num_workers: processes that read images.
        splits: class names of each split (base, novel, ...) that is scored in addition.
        per_class: report the accuracy of each class, and their mean.

    Raises:
        InputError: no class names, the dataset's in another order, or a split with no, unknown or repeated
            class names.
    """

    def __init__(
        self,
        dataset: Any,
        templates: str | Sequence[str] = 'imagenet',
        class_names: Sequence[str] | Vocabulary | None = None,
        batch_size: int = 256,
        name: str = 'zero_shot',
        num_workers: int = 0,
        splits: Mapping[str, Sequence[str]] | None = None,
        per_class: bool = False,
    ) -> None:
        self.dataset = build(dataset, DATASETS)
        own = getattr(self.dataset, 'class_names', None)
        names = own if class_names is None else class_names
        if names is None:
            raise InputError(f'{type(self.dataset).__name__} has no class names: give class_names')
        self.vocabulary = names if isinstance(names, Vocabulary) else Vocabulary(tuple(names))
        if class_names is not None and own is not None:
            check_order(own, self.vocabulary.class_names, 'class_names')
        self.templates, self.batch_size, self.num_workers = templates, batch_size, num_workers
        self.name, self.per_class = name, per_class
        self.splits = {
            split: torch.tensor(list(map(self.vocabulary.index, self.vocabulary.subset(members).class_names)))
            for split, members in (splits or {}).items()
        }

    def __call__(self, clip: CLIP) -> dict[str, float]:
        """Evaluate a model; its mode is restored.

        Returns:
            ``NAME/top1``, ``/top5``, ``/chance`` (of top 1) and ``/count`` (images).  With splits also
            ``NAME/SPLIT/top1`` among the names of the split, ``/generalised_top1`` among all names,
            ``/chance`` and ``/count``.  With ``per_class`` also ``NAME/mean_per_class`` and
            ``NAME/per_class/CLASS``.

        Raises:
            InputError: a label without a class name, an empty dataset, or embeddings that are not finite.
        """
        with evaluating(clip):
            embedder = PromptEnsemble(clip, self.templates, cache=None, batch_size=self.batch_size)
            classes = embedder.embed(self.vocabulary)
            labels, ranks = self._rank(clip, classes)
        report = self._report(labels, ranks)
        return {f'{self.name}/{key}': value for key, value in report.items()}

    def _rank(self, clip: CLIP, classes: ClassEmbeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Labels, and the rank of the true class among all class names ('') and among those of each split."""
        labels: list[Tensor] = []
        ranks: dict[str, list[Tensor]] = {part: [] for part in ('', *self.splits)}
        for embeddings, batch in embedded_batches(
            clip, self.dataset, self.batch_size, self.num_workers, self.name
        ):
            known = batch['labels'] >= 0
            labels.append(self._checked(batch['labels']))
            scores = class_scores(embeddings[known.to(embeddings.device)], classes).cpu()
            ranks[''].append(label_ranks(scores, labels[-1]))
            for split, members in self.splits.items():
                shown, column = (labels[-1][:, None] == members).nonzero(as_tuple=True)
                ranks[split].append(label_ranks(scores[shown][:, members], column))
        if not sum(map(len, labels)):
            raise InputError(f'{self.name}: the dataset has no images that can be read')
        return torch.cat(labels), {part: torch.cat(values) for part, values in ranks.items()}

    def _checked(self, labels: Tensor) -> Tensor:
        count = len(self.vocabulary)
        if len(labels) and labels.max() >= count:
            raise InputError(
                f'{self.name}: label {int(labels.max())} in the dataset, but only {count} class names'
            )
        if len(labels) and labels.min() < UNREADABLE:
            raise InputError(
                f'{self.name}: label {int(labels.min())} in the dataset; labels are 0 to {count - 1}, or '
                f'{UNREADABLE} for images to skip'
            )
        return labels[labels >= 0]

    def _report(self, labels: Tensor, ranks: Mapping[str, Tensor]) -> dict[str, float]:
        report = {f'top{k}': accuracy(ranks[''], k) for k in TOP}
        report |= {'chance': 1 / len(self.vocabulary), 'count': len(labels)}
        for split, members in self.splits.items():
            own = ranks[''][torch.isin(labels, members)]
            report[f'{split}/top1'] = accuracy(ranks[split], 1)
            report[f'{split}/generalised_top1'] = accuracy(own, 1)
            report |= {f'{split}/chance': 1 / len(members), f'{split}/count': len(own)}
        if self.per_class:
            shown = labels.unique()
            each = torch.tensor([accuracy(ranks[''][labels == label], 1) for label in shown])
            report['mean_per_class'] = each.mean().item()
            for label, value in zip(shown, each, strict=True):
                report[f'per_class/{self.vocabulary.class_names[label]}'] = value.item()
        return report


def class_scores(embeddings: Tensor, classes: ClassEmbeddings) -> Tensor:
    """Cosine similarities (B, K) of unit embeddings (B, D); the maximum over the queries of a class."""
    scores = embeddings.float() @ classes.queries.to(embeddings.device, torch.float32).mT  # (B, Q)
    return classes.class_scores(scores) if classes.has_synonyms else scores


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Number of other classes that score at least as high as the true one.

    Ties and NaN count against the model.

    Args:
        scores: (B, K).
        labels: (B,).

    Returns:
        (B,) int64, 0 if the true class is the only best one.
    """
    own = scores.gather(1, labels[:, None])
    return (~(scores < own)).sum(1) - 1


def accuracy(ranks: Tensor, k: int) -> float:
    """Fraction of ranks below k; NaN if there are none."""
    return (ranks < k).double().mean().item()
