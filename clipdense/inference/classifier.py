"""Classify images with words.  B: images, K: classes, D: joint space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipdense.clip.class_embeddings import ClassEmbedder, class_embedder
from clipdense.clip.model import CLIP
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image
from clipdense.vocab.templates import Templates
from clipdense.vocab.vocabulary import Vocabulary

from .load import as_vocabulary, load_clip
from .results import Classification

Words = Vocabulary | str | list[str] | tuple[str, ...]


class Classifier:
    """A CLIP with a vocabulary.

    Args:
        clip: the model, in evaluation mode.
        embedder: class names -> embeddings; a ``PromptEnsemble`` of ``clip`` unless given.
    """

    def __init__(self, clip: CLIP, embedder: ClassEmbedder | None = None) -> None:
        self.clip = clip.eval()
        self.embedder = class_embedder(clip, embedder, cache='default')
        self.vocabulary: Vocabulary | None = None
        self.embeddings: ClassEmbeddings | None = None

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path | CLIP,
        *,
        templates: Templates = 'imagenet',
        embedder: ClassEmbedder | None = None,
        device: str | None = None,
        cache: bool = True,
        **overrides: Any,
    ) -> Classifier:
        """A classifier out of a name in the zoo or a file in any official format.

        Args:
            weights, device, overrides: see ``load_clip``.
            templates: prompt templates, as ``get_templates`` takes them.
            embedder: see the class; it has its own templates.
            cache: whether class embeddings are kept on disk.
        """
        clip = load_clip(weights, device, **overrides)
        return cls(clip, class_embedder(clip, embedder, templates, 'default' if cache else None))

    def set_vocabulary(self, words: Words) -> Vocabulary:
        """Choose the words for the images to come; they are embedded once."""
        vocabulary = as_vocabulary(words)
        if vocabulary != self.vocabulary:
            self.embeddings = self.embedder.embed(vocabulary)
            self.vocabulary = vocabulary
        return vocabulary

    def __call__(self, image: str | Path | Image.Image | Any, words: Words | None = None) -> Classification:
        """Classify one image; ``words`` as in ``Segmenter``."""
        return next(self.many([image], words))

    @torch.no_grad()
    def many(
        self, images: Iterable[Any], words: Words | None = None, batch_size: int = 32
    ) -> Iterator[Classification]:
        """Classify a stream of images in batches.

        Raises:
            InputError: an unreadable image, or no words at all.
        """
        if words is not None:
            self.set_vocabulary(words)
        if self.embeddings is None or self.vocabulary is None:
            raise InputError('no vocabulary yet: pass words, or call set_vocabulary first')
        device = next(self.clip.parameters()).device
        stream = iter(images)
        while batch := list(islice(stream, batch_size)):
            pixels = torch.stack([self.clip.preprocess(read_image(image)) for image in batch]).to(device)
            for row in self._probabilities(pixels).cpu().numpy():
                yield Classification(row, self.vocabulary)

    def _probabilities(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K): the best query speaks for its class, then softmax over classes."""
        assert self.embeddings is not None
        image_embeddings = self.clip.encode_image(pixels, normalize=True)  # (B, D)
        logits = self.clip.logit_scale.exp() * image_embeddings @ self.embeddings.queries.mT  # (B, Q)
        return self.embeddings.class_scores(logits).softmax(dim=-1)  # (B, K)
