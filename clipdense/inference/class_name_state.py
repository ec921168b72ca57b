"""The class names of a predictor: the vocabulary that is set, and its embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from clipdense.clip.class_embeddings import ClassEmbedder, PromptEnsemble
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.adapters import Adapter
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .example_images import Contents, ExampleEmbedding, contents, named_part, with_examples
from .image_prompts import per_image, with_image_prompts
from .load import ClassNames, as_vocabulary

_KEPT = 8  # number of vocabularies whose embeddings are kept in memory


class ClassNameState(ABC):
    """Base of ``Predictor``: embeds class names once, and sets them on the model.

    Attributes:
        model: what class names are set on.
        embedder: class names -> embeddings.
        adapter: changes embeddings.
        vocabulary: of ``set_vocabulary``.
    """

    model: Any
    embedder: ClassEmbedder
    adapter: Adapter | None
    vocabulary: Vocabulary | None
    _lock: Any  # held while the model is used
    _embedded: dict[tuple[Any, ...], ClassEmbeddings]
    _contents: dict[Any, Contents]

    @property
    def embeddings(self) -> ClassEmbeddings | None:
        """The embeddings of the current vocabulary; negatives are further classes.

        Raises:
            InputError: they depend on the image.
        """
        with self._lock:
            return None if self.vocabulary is None else self._embed(self.vocabulary.with_negatives)

    def set_vocabulary(self, class_names: ClassNames) -> Vocabulary:
        """Set the vocabulary for subsequent calls without class names; it is embedded once.

        Files of examples are read again if their content has changed since the last time.

        Raises:
            InputError: invalid names (see ``Vocabulary``), or examples that cannot be read or embedded.

        Warns:
            UserWarning: one class only, where the result is a choice among the classes.
        """
        vocabulary = as_vocabulary(class_names)
        self._warn_of_one_class(vocabulary)
        with self._lock:
            if vocabulary.examples:
                self._check_can_embed_examples()
                self._contents[tuple(vocabulary.examples.items())] = contents(vocabulary)
            if per_image(self.embedder):
                self._embedder_of(vocabulary).check(vocabulary.with_negatives)  # type: ignore[attr-defined]
            else:
                self._embed(vocabulary.with_negatives)
            self.vocabulary = vocabulary
        return vocabulary

    def _asked_vocabulary(self, class_names: ClassNames | None) -> Vocabulary:
        """The vocabulary of a call, checked.

        Raises:
            InputError: no class names, or class names that do not fit the settings.
        """
        # Not read back from the attribute, which another thread may have set since.
        vocabulary = self.vocabulary if class_names is None else self.set_vocabulary(class_names)
        if vocabulary is None:
            raise InputError('no class names: pass them to the call, or call set_vocabulary first')
        self._check_vocabulary(vocabulary)
        return vocabulary

    def _warn_of_one_class(self, vocabulary: Vocabulary) -> None:  # noqa: B027  # may be overridden
        """Warn where a single class makes the result certain whatever the image shows."""

    def _check_vocabulary(self, vocabulary: Vocabulary) -> None:  # noqa: B027  # may be overridden
        """Check that the class names of a call fit the settings.

        Raises:
            InputError: they do not.
        """

    def _embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        examples = tuple(vocabulary.examples.items())
        shown = self._contents[examples] if examples else ()
        asked = vocabulary.names_only
        key = (asked.queries, vocabulary.background, vocabulary.templates, shown)
        if key not in self._embedded:
            if len(self._embedded) >= _KEPT:
                del self._embedded[next(iter(self._embedded))]
            if not examples:
                found = self._adapted(self._embedder_of(vocabulary).embed(vocabulary))
            else:
                found = self._embed_with_examples(vocabulary)
            self._embedded[key] = found
        return self._embedded[key]

    def _embed_with_examples(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        part = named_part(vocabulary)
        named = None if part is None else self._checked(self._embedder_of(part).embed(part))
        with torch.no_grad(), with_image_prompts(self.model, self.embedder):
            return self._checked(with_examples(vocabulary, named, self._embed_example))

    def _check_can_embed_examples(self) -> None:
        """Check that classes can be given by example images.

        Raises:
            InputError: an adapter, or class embeddings that depend on the image.
        """
        if self.adapter is not None:
            raise InputError(
                'classes given by example images cannot be combined with an adapter: remove the adapter, or '
                'give the classes by their names'
            )
        if per_image(self.embedder):
            raise InputError(
                'these prompts depend on the image, so that classes cannot be given by example images: give '
                'their names'
            )

    @abstractmethod
    def _embed_example(self, image: Image.Image, mask: np.ndarray | None, alone: bool) -> ExampleEmbedding:
        """Embed an example image as predictions are embedded.

        Args:
            image: the image.
            mask: (H, W), True where it shows the class; None for the whole image.
            alone: whether no other class is given by examples, whose images this one could be compared with.

        Raises:
            InputError: the model has no such embeddings.
        """

    def _embedder_of(self, vocabulary: Vocabulary) -> ClassEmbedder:
        """The embedder, with the templates of the vocabulary if it has some.

        Raises:
            InputError: the embedder has no templates.
        """
        own = self.embedder
        if vocabulary.templates is None:
            return own
        if not isinstance(own, PromptEnsemble):
            raise InputError(
                f'the templates of the vocabulary have no effect on a {type(own).__name__}: remove them'
            )
        return own.with_templates(vocabulary.templates)

    def _adapted(self, embeddings: ClassEmbeddings) -> ClassEmbeddings:
        """Class embeddings as the adapter changes them."""
        embeddings = self._checked(embeddings)
        if self.adapter is None:
            return embeddings
        with torch.no_grad():
            queries = self.adapter.adapt_queries(embeddings.queries)
        return replace(embeddings, queries=queries)

    def _checked(self, embeddings: ClassEmbeddings) -> ClassEmbeddings:
        """Refuse embeddings of another joint space, as far as its dimension shows."""
        found = embeddings.queries.shape[-1]
        holder = self.model if hasattr(self.model, 'embed_dim') else getattr(self.model, 'clip', None)
        expected = getattr(holder, 'embed_dim', found)
        if found != expected:
            raise InputError(
                f'the class embeddings have dimension {found}, the model has {expected}: they belong to '
                'other weights'
            )
        return embeddings

    def _set_on_model(self, vocabulary: Vocabulary, embeddings: ClassEmbeddings) -> None:
        """Set vocabulary and adapter of the model, of which another predictor may have set others."""
        self.model.set_vocabulary(vocabulary.names_only, embeddings)
        if hasattr(self.model, 'set_adapter'):
            self.model.set_adapter(self.adapter)
