"""GLIP as a ``DetectionModel``: detects in images of any size, boxes are in pixels of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from clipdense.data.detection.inference import checked_image_size, in_batches, preprocess, preprocess_image
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.detection import DetectedObjects, DetectionRules, Pixels
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .class_text import ClassText
from .detector import GLIP
from .text import GroundingText


class EncodedLevels(NamedTuple):
    """An image before it meets a text."""

    levels: tuple[Tensor, ...]  # (1, C, h, w) of each level
    meta: dict[str, Any]  # its sizes


class GLIPPredictor(nn.Module):
    """A ``DetectionModel`` from a ``GLIP``.

    Args:
        model: the detector.
        image_size: longer side of resized images in pixels, in place of the test transforms.
    """

    templates = 'name'
    method = 'glip'
    reads_names = True  # no class embeddings

    def __init__(self, model: GLIP, image_size: int | None = None) -> None:
        super().__init__()
        self.model, self.image_size = model, image_size
        self.eval()

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The current vocabulary."""
        return self.model.vocabulary

    @property
    def rules(self) -> DetectionRules:
        """The detection rules of the config."""
        return self.model.detection

    @property
    def clip(self) -> GroundingText:
        """The text tower, which is part of the detector."""
        return self.model.clip

    def __setattr__(self, name: str, value: Any) -> None:
        if name == 'clip':
            raise InputError(
                'GLIP reads class names with the text tower that it was trained with: remove clip'
            )
        super().__setattr__(name, value)

    @property
    def embedder(self) -> ClassText:
        """What reads class names."""
        return self.model.class_text

    @property
    def embed_dim(self) -> int:
        """D of the text features."""
        return self.model.clip.width

    def set_vocabulary(self, vocabulary: Vocabulary, embeddings: ClassEmbeddings | None = None) -> None:
        """Set the vocabulary for subsequent calls.  Its names are encoded once.

        Args:
            vocabulary: the class names.
            embeddings: not used: the head reads the tokens of the names.
        """
        self.model.set_vocabulary(vocabulary, embeddings)

    @torch.no_grad()
    def predict(self, images: Sequence[Pixels], rules: DetectionRules) -> list[DetectedObjects]:
        """Detect in RGB images (H, W, 3) uint8, of any sizes.

        Raises:
            InputError: no vocabulary has been set, or it lacks a class of ``rules.class_thresholds``.
        """

        def detect(_: list[int], batch: dict[str, Any]) -> list[DetectedObjects]:
            levels, metas = self._levels(preprocess(self.model, batch))
            return [_objects(one) for one in self.model.detect(levels, metas, rules)]

        return in_batches(self.model, images, detect, self.image_size)

    @torch.no_grad()
    def predict_each(
        self, images: Sequence[Pixels], vocabularies: Sequence[Vocabulary], rules: DetectionRules
    ) -> list[DetectedObjects]:
        """As ``predict``, with a vocabulary for each image, which is not kept."""

        def detect(places: list[int], batch: dict[str, Any]) -> list[DetectedObjects]:
            levels, metas = self._levels(preprocess(self.model, batch))
            own = [vocabularies[place] for place in places]
            return [_objects(one) for one in self.model.detect_each(levels, metas, own, rules)]

        return in_batches(self.model, images, detect, self.image_size)

    @torch.no_grad()
    def encode_image(self, image: Pixels) -> EncodedLevels:
        """An RGB image (H, W, 3) uint8 -> its levels, for any number of vocabularies."""
        levels, metas = self._levels(preprocess_image(self.model, np.asarray(image), self.image_size))
        return EncodedLevels(levels, metas[0])

    @torch.no_grad()
    def predict_encoded(self, encoded: EncodedLevels, rules: DetectionRules) -> DetectedObjects:
        """As ``predict``, for an image that ``encode_image`` encoded."""
        return _objects(self.model.detect(encoded.levels, [encoded.meta], rules)[0])

    def _levels(self, data: dict[str, Any]) -> tuple[tuple[Tensor, ...], list[dict[str, Any]]]:
        """The levels of preprocessed images of one size, and the sizes of each."""
        return self.model.extract_feat(data['inputs']), [one.metainfo for one in data['data_samples']]


def build(model: GLIP, name: str, options: Mapping[str, Any]) -> GLIPPredictor:
    """A GLIP as a detector."""
    return GLIPPredictor(model, image_size=checked_image_size(options))


def _objects(one: Any) -> DetectedObjects:
    return DetectedObjects(one.bboxes, one.scores, one.labels, one.get('masks'))
