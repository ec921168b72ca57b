"""Zero-shot classification of images.  B: images, K: classes, D: joint space."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.class_embeddings import ClassEmbedder
from clipdense.clip.frozen_image import FrozenImage
from clipdense.clip.model import CLIP
from clipdense.layers.precision import (
    Precision,
    at_least_fp32,
    autocast,
    no_autocast,
    resolve_precision,
)
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.adapters import Adapter
from clipdense.utils.devices import choose_device
from clipdense.vocab.templates import Templates
from clipdense.vocab.vocabulary import Vocabulary

from .example_images import ExampleEmbedding, box_of, grid_boxes
from .load import Embedder, load_embedder, load_image_clip
from .predictor import Predictor
from .reading import Input
from .results import Classification


class Classifier(Predictor[Classification]):
    """A CLIP that classifies images by class names given at run time.

    Args:
        clip: the model, or its image tower with an embedder.
        embedder: class names -> embeddings; a ``PromptEnsemble`` of ``clip`` by default.
        adapter: changes image embeddings and class scores, see ``load_adapter``.
        precision: 'auto', 'fp32' or 'bf16', see ``Predictor``.

    Example:
        >>> classifier = Classifier.from_pretrained('ViT-B-16/openai')
        >>> classifier('cat.jpg', ['cat', 'dog']).top(1)
    """

    _needs = ('encode_image', 'logit_scale', 'preprocess')

    def __init__(
        self,
        clip: CLIP | FrozenImage,
        embedder: ClassEmbedder | None = None,
        adapter: Adapter | str | Path | None = None,
        precision: Precision = 'auto',
    ) -> None:
        super().__init__(clip, embedder, adapter, precision)

    @property
    def clip(self) -> CLIP | FrozenImage:
        """The model."""
        return self.model

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path | CLIP | FrozenImage,
        *,
        templates: Templates | None = None,
        embedder: Embedder | None = None,
        adapter: Adapter | str | Path | None = None,
        device: str | torch.device | None = None,
        precision: Precision = 'auto',
        cache: bool = True,
        **overrides: Any,
    ) -> Classifier:
        """A classifier from a name in ``list_models()`` or a file in any official format.

        Args:
            weights, device, overrides: see ``load_image_clip``; an image tower needs stored class embeddings.
            templates: prompt templates, as ``get_templates`` takes them; 'imagenet' by default.
            embedder: see ``load_embedder``; replaces the templates.
            adapter: see ``load_adapter``.
            precision: see the class.
            cache: whether to cache class embeddings on disk.
        """
        resolve_precision(precision, choose_device(device))  # before weights are loaded
        clip = load_image_clip(weights, device, **overrides)
        return cls(clip, load_embedder(clip, embedder, templates, cache), adapter, precision)

    def _warn_of_one_class(self, vocabulary: Vocabulary) -> None:
        if len(vocabulary) == 1:
            name = vocabulary.class_names[0]
            warnings.warn(f'one class only: every image is {name!r} with probability 1; add other classes')

    def _predict(
        self,
        images: list[Input],
        vocabulary: Vocabulary,
        embeddings: ClassEmbeddings,
        settings: Mapping[str, Any],
    ) -> list[Classification]:
        new = [one.image for one in images if one.encoded is None]
        fresh = iter(self._embed_images(new) if new else ())
        rows = [next(fresh) if one.encoded is None else one.encoded.features for one in images]
        found = self._probabilities(torch.stack(rows), vocabulary, embeddings).cpu().numpy()
        return [Classification(row, vocabulary, one.image) for row, one in zip(found, images, strict=True)]

    def _reported(
        self, result: Classification, vocabulary: Vocabulary, settings: Mapping[str, Any]
    ) -> Classification:
        return Classification(result.probabilities[: len(vocabulary)], vocabulary, result.image)

    def _encode(self, image: Image.Image) -> Tensor:
        return self._embed_images([image])[0]

    def _embed_images(self, images: list[Image.Image]) -> Tensor:
        """(B, D), not normalized."""
        pixels = torch.stack([self.clip.preprocess(image) for image in images]).to(self.device)
        return at_least_fp32(self.clip.encode_image(pixels))

    def _embed_example(self, image: Image.Image, mask: np.ndarray | None, alone: bool) -> ExampleEmbedding:
        shown = image if mask is None else image.crop(box_of(mask))
        parts = [image.crop(box) for box in grid_boxes(image.size)] if alone else []
        with autocast(self.device, self._autocast):
            rows = F.normalize(self._embed_images([shown, *parts]), dim=-1)
        return ExampleEmbedding(rows[0], rows)

    def _probabilities(
        self, image_embeddings: Tensor, vocabulary: Vocabulary, embeddings: ClassEmbeddings
    ) -> Tensor:
        """(B, D) -> (B, K): the maximum over the queries of each class, then softmax over classes."""
        with no_autocast(self.device):
            image_embeddings = F.normalize(image_embeddings, dim=-1)
            if self.adapter is not None:
                image_embeddings = self.adapter.adapt_embeddings(image_embeddings)
            scale = self.clip.logit_scale.to(image_embeddings.dtype).exp()
            logits = scale * image_embeddings @ embeddings.queries.to(image_embeddings.dtype).mT  # (B, Q)
            logits = embeddings.class_scores(logits)  # (B, K)
            added = (
                None if self.adapter is None else self.adapter.scores(image_embeddings, vocabulary.names_only)
            )
            return (logits if added is None else logits + added).softmax(dim=-1)
