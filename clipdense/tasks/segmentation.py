"""Segmentation with words given at run time.

B: pictures or windows, (h, w): patch grid, (H, W): pixels, D: joint space, K: classes, Q: queries.

A segmenter writes ``encode_pixels`` and ``classify_pixels``; this page does the rest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from mmengine.model import BaseModel
from torch import Tensor
from torch.nn import functional as F

from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.structures import ClassEmbeddings, SegmentationSample
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .reduction import reduce_queries
from .windows import Slide, Window


class PixelLabels(NamedTuple):
    """The answer for one picture."""

    classes: Tensor  # (H, W) int64
    probability: Tensor  # (H, W) of that class among all


class SegmentationModel(BaseModel):
    """Base of all segmenters: windows, upsampling, vocabulary, background.

    Args:
        mean, std: of the tower's pictures, on the 0 .. 1 scale.
        slide: how pictures are brought before the tower.
        logit_scale: factor on the class scores before the softmax over classes.
        background_threshold: pixels whose best class is less probable than this become background, where the
            vocabulary has a background class.
        memory_budget: bytes for class logits at full size; more classes than fit are taken in chunks.

    Attributes:
        joint_over_classes: whether ``classify_pixels`` needs all classes together (softmax, top-k, maximum).
        background: where the background rule applies: to the whole picture, to each window, or not at all.
        patch_size: the smallest picture that the tower takes, in pixels.
    """

    joint_over_classes: bool = False
    background: Literal['window', 'picture', None] = 'picture'
    patch_size: int = 1

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        slide: Slide | dict | None = None,
        logit_scale: float = 40.0,
        background_threshold: float = 0.0,
        memory_budget: int = 256 << 20,
    ) -> None:
        super().__init__(data_preprocessor=ImagePreprocessor(mean, std))
        self.slide = Slide(**slide) if isinstance(slide, dict) else slide or Slide()
        self.logit_scale = logit_scale
        self.background_threshold = background_threshold
        self.memory_budget = memory_budget
        self.vocabulary: Vocabulary | None = None
        self.dataset_meta: dict[str, Any] = {}
        self.register_buffer('queries', None, persistent=False)
        self.register_buffer('query_class', None, persistent=False)

    @abstractmethod
    def encode_pixels(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> features that can be kept; knows no vocabulary.

        What it returns is a tensor or a tuple of tensors, B first in each.
        """

    @abstractmethod
    def classify_pixels(self, features: Any, text: Tensor) -> Tensor:
        """Features, (K, D) or (B, K, D) class embeddings -> (B, K, h, w)."""

    def finish(self, labels: PixelLabels, image: Tensor) -> PixelLabels:
        """Rules for the whole picture.  Here: improbable pixels become background.

        Args:
            labels: (H, W) each.
            image: (3, h, w), resized and normalised.
        """
        if self.background != 'picture' or self.background_index is None:
            return labels
        improbable = labels.probability < self.background_threshold
        return labels._replace(classes=labels.classes.masked_fill(improbable, self.background_index))

    def pixel_logits(self, images: Tensor, text: Tensor) -> Tensor:
        """(B, 3, H, W), (K, D) -> (B, K, h, w)."""
        return self.classify_pixels(self.encode_pixels(images), text)

    @property
    def background_index(self) -> int | None:
        """Class index of the vocabulary's background, None where it has none."""
        vocabulary = self.vocabulary
        if vocabulary is None or vocabulary.background is None:
            return None
        return vocabulary.index(vocabulary.background)

    def set_vocabulary(self, vocabulary: Vocabulary, embeddings: ClassEmbeddings) -> None:
        """Choose the words.  They are state of inference: no weight changes, strict loading goes on working.

        Raises:
            ValueError: as many classes must be embedded as the vocabulary has.
        """
        if embeddings.num_classes != len(vocabulary):
            raise ValueError(f'{embeddings.num_classes} embedded classes for {len(vocabulary)} names')
        device = next(self.parameters()).device
        self.vocabulary = vocabulary
        self.queries = embeddings.queries.to(device)
        self.query_class = embeddings.query_class.to(device)
        self.num_classes = len(vocabulary)
        self.dataset_meta = {'classes': vocabulary.class_names, 'vocabulary': vocabulary}

    def forward(
        self,
        images: Tensor | Sequence[Tensor],
        samples: Sequence[SegmentationSample] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """MMEngine's door.  ``images`` are normalised; in mode 'predict' they may differ in size.

        Returns:
            mode 'predict': the samples with ``prediction``; 'loss': a dict; 'tensor': logits (B, Q, h, w).
        """
        if mode == 'predict':
            return [self._predict(image, sample) for image, sample in zip(images, samples or (), strict=True)]
        if mode == 'loss':
            return self.loss(images, samples)
        return self.pixel_logits(torch.stack(list(images)), self._text())

    def loss(self, images: Any, samples: Any) -> dict[str, Tensor]:
        """Trained segmenters override this."""
        raise RuntimeError(f'{type(self).__name__} is training-free: it has no loss')

    @torch.no_grad()
    def segment(self, image: Tensor, result_size: tuple[int, int] | None = None) -> PixelLabels:
        """One normalised picture (3, H, W) of any size -> labels of its size, or of ``result_size``."""
        kept = self.encode_picture(image)
        return self.classify_picture(kept, result_size or (image.shape[-2], image.shape[-1]))

    @torch.no_grad()
    def encode_picture(self, image: Tensor) -> EncodedPicture:
        """The slow half: (3, H, W) through the tower.  Ask the result any number of vocabularies."""
        size = self.slide.resized((image.shape[-2], image.shape[-1]), self.patch_size)
        if size != image.shape[-2:]:
            image = F.interpolate(image[None], size, mode='bilinear', antialias=True)[0]
        windows = self.slide.windows(size)
        features = []
        for first in range(0, len(windows), self.slide.batch):
            parts = [_cut(image, window) for window in windows[first : first + self.slide.batch]]
            features.append(self.encode_pixels(torch.stack(parts)))
        return EncodedPicture(image, windows, features)

    @torch.no_grad()
    def classify_picture(self, picture: EncodedPicture, result_size: tuple[int, int]) -> PixelLabels:
        """The fast half: an encoded picture and the vocabulary -> labels (H, W)."""
        text = self._text()
        joint = list(self._classify(picture, text)) if self.joint_over_classes else None

        def window_logits(part: slice) -> list[Tensor]:
            if joint is not None:
                return [logits[:, part] for logits in joint]
            return list(self._classify(picture, text[part]))

        size = (picture.image.shape[-2], picture.image.shape[-1])
        best = reduce_queries(
            window_logits, len(text), picture.windows, size, result_size, self.memory_budget
        )
        return self.finish(PixelLabels(self.query_class[best.query], best.probability), picture.image)

    def _classify(self, picture: EncodedPicture, text: Tensor) -> Iterator[Tensor]:
        """Scaled logits (1, q, h, w) of one window after another."""
        for features in picture.features:
            yield from (self.classify_pixels(features, text) * self.logit_scale).split(1)

    def _predict(self, image: Tensor, sample: SegmentationSample) -> SegmentationSample:
        return replace(sample, prediction=self.segment(image, sample.size).classes)

    def _text(self) -> Tensor:
        if self.queries is None:
            raise InputError('no vocabulary yet: call set_vocabulary(vocabulary, embeddings) first')
        return self.queries


class EncodedPicture(NamedTuple):
    """A picture after the tower, before any words."""

    image: Tensor  # (3, h, w) resized, normalised
    windows: list[Window]
    features: list[Any]  # of each batch of windows


def _cut(image: Tensor, window: Window) -> Tensor:
    return image[:, window.top : window.bottom, window.left : window.right]
