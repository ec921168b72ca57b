"""Make an adapter from labeled data: the part ``adapt`` of the methods of this folder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clipdense.clip.class_embeddings import ClassEmbedder
from clipdense.data.labeled import LabeledData, Parts
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.adapters import Adapter
from clipdense.utils.errors import InputError
from clipdense.utils.wording import counted
from clipdense.vocab.vocabulary import Vocabulary

from .cache import KeyValueCache
from .examples import Examples, cosine_scale, examples_of, origin_of, validation_of, zero_shot_logits
from .residual import ClipAdapter
from .search import Grid, Metric, Validation, score_trained, search_widely
from .train import adapted_logits, fit

_BUILD = ('crops', 'keys_per_class', 'samples')


class Task:
    """Labeled examples of a model, and its class embeddings.

    Args:
        model: a CLIP, segmenter or detector, in evaluation mode.
        embedder: class names -> embeddings.
        labels: the data.
        options: of the method; those of building examples are used here.

    Raises:
        InputError: as ``LabeledData`` and ``examples_of``.
    """

    def __init__(
        self, model: Any, embedder: ClassEmbedder, labels: LabeledData, options: Mapping[str, Any]
    ) -> None:
        self.model, self.labels = model, labels
        self.parts: Parts = labels.open()
        own = {name: options[name] for name in _BUILD if name in options}
        self.examples: Examples = examples_of(model, self.parts.train, **own, seed=labels.seed)
        self.vocabulary = Vocabulary(self.examples.class_names)
        self.classes: ClassEmbeddings = embedder.embed(self.vocabulary).to('cpu')
        self.origin = origin_of(model, self.examples.kind)
        counts = self.examples.labels.bincount(minlength=len(self.vocabulary))
        if int((counts > 0).sum()) == 1:
            name = self.vocabulary.class_names[int(counts.argmax())]
            warnings.warn(f'all examples are of one class, {name!r}, which then wins everywhere: add others')
        empty = [name for name, n in zip(self.vocabulary.class_names, counts.tolist(), strict=True) if not n]
        if empty:
            shown = ', '.join(empty[:10]) + (', ...' if len(empty) > 10 else '')
            warnings.warn(f'{counted(len(empty), "class")} without examples: {shown}')

    def validation(self) -> Examples | None:
        """The validation examples, with the classes of the vocabulary.

        Raises:
            InputError: a class without examples.
        """
        if self.parts.validation is None:
            return None
        found = validation_of(self.model, self.parts.validation, self.labels.seed)
        if found.class_names == self.vocabulary.class_names:
            return found
        unknown = [name for name in found.class_names if name not in self.vocabulary]
        if unknown:
            raise InputError(
                f'the validation data has other classes than the examples: {", ".join(unknown[:10])}'
            )
        places = found.labels.new_tensor([self.vocabulary.index(name) for name in found.class_names])
        return Examples(found.views, places[found.labels], self.vocabulary.class_names, found.kind)


def tip(model: Any, embedder: ClassEmbedder, labels: LabeledData, options: Mapping[str, Any]) -> Adapter:
    """A cache of the examples, with alpha and beta searched on the validation examples if there are any."""
    task = Task(model, embedder, labels, options)
    cache = _cache(task, options)
    _search(task, cache, options)
    return cache


def tip_f(model: Any, embedder: ClassEmbedder, labels: LabeledData, options: Mapping[str, Any]) -> Adapter:
    """A cache with trained keys.

    With samples (of masks and boxes) alpha and beta are searched first, and the keys are trained for them;
    without, they are searched after the training, as in the paper.
    """
    task = Task(model, embedder, labels, options)
    cache, sampled = _cache(task, options), task.examples.samples is not None
    searched = _search(task, cache, options) if sampled else None
    _fit(task, cache.trainable(), options)
    cache.keys.requires_grad_(False)
    if not sampled:
        _search(task, cache, options)
    elif searched is not None:
        score_trained(cache, searched)
    return cache


def clip_adapter(
    model: Any, embedder: ClassEmbedder, labels: LabeledData, options: Mapping[str, Any]
) -> Adapter:
    """A CLIP-Adapter trained on the examples; it is said if the validation examples do not improve."""
    task = Task(model, embedder, labels, options)
    own = {name: options[name] for name in ('sides', 'reduction', 'ratio', 'final_relu') if name in options}
    with torch.random.fork_rng(devices=[]):  # the first weights depend on the seed of the labels alone
        torch.manual_seed(labels.seed)
        adapter = ClipAdapter(task.examples.views.shape[-1], **own, origin=task.origin)
    _fit(task, adapter, options)
    found = task.validation()
    if found is not None:
        before = _accuracy(zero_shot_logits(model, found.keys, task.classes), found.labels)
        scale = cosine_scale(model)
        after = _accuracy(
            adapted_logits(adapter, found.keys, task.classes, task.vocabulary, scale), found.labels
        )
        if after <= before:
            warnings.warn(
                f'the adapter does not improve the validation examples: accuracy {after:.3f}, zero-shot '
                f'{before:.3f}'
            )
    return adapter.requires_grad_(False)


def _cache(task: Task, options: Mapping[str, Any]) -> KeyValueCache:
    own = {name: options[name] for name in ('alpha', 'beta', 'balance') if options.get(name) is not None}
    return KeyValueCache(
        task.examples.keys, task.examples.labels, task.vocabulary.class_names, **own, origin=task.origin
    )


def _fit(task: Task, adapter: Adapter, options: Mapping[str, Any]) -> None:
    own = {name: options[name] for name in ('epochs', 'lr') if name in options}
    embeddings, labels = task.examples.training
    fit(
        adapter,
        embeddings,
        labels,
        task.classes,
        task.vocabulary,
        cosine_scale(task.model),
        **own,
        seed=task.labels.seed,
    )


def _search(task: Task, cache: KeyValueCache, options: Mapping[str, Any]) -> Validation | None:
    """Search alpha and beta if there are validation examples; returns these.

    Raises:
        InputError: alpha or beta are given too.
    """
    found = task.validation()
    if found is None:
        return None
    given = [name for name in ('alpha', 'beta') if options.get(name) is not None]
    if given:
        raise InputError(
            f'{given[0]} is given and would be searched too: leave it out, or the validation examples'
        )
    grid = Grid(options.get('max_beta', Grid.beta), options.get('max_alpha', Grid.alpha))
    logits = zero_shot_logits(task.model, found.keys, task.classes)
    metric: Metric = 'mean_iou' if found.kind == 'pixels' else 'accuracy'
    validation = Validation(found.keys, found.labels, logits, task.vocabulary, metric)
    search_widely(cache, validation, grid)
    return validation


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).double().mean().item()
