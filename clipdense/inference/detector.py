"""Detect classes by name.  n: detections, (H, W): pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image

from clipdense.clip.class_embeddings import ClassEmbedder, class_embedder
from clipdense.clip.model import CLIP
from clipdense.tasks.detection import DetectedObjects, DetectionModel, DetectionRules
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image
from clipdense.vocab.templates import Templates
from clipdense.vocab.vocabulary import Vocabulary

from .load import (
    ClassNames,
    as_vocabulary,
    choose_device,
    load_clip,
    load_detector,
    load_trained_detector,
)
from .results import Detections


class Detector:
    """A detector and what embeds its class names.

    Args:
        model: any detector.
        embedder: class names -> embeddings; a ``PromptEnsemble`` of the model's text tower with the templates
            of its method unless given.
        rules: what counts as a detection, where a call does not say; the model's own unless given.

    Raises:
        InputError: a model without a text tower needs an embedder.
    """

    def __init__(
        self,
        model: DetectionModel,
        embedder: ClassEmbedder | None = None,
        rules: DetectionRules | None = None,
    ) -> None:
        self.model, self.rules = model, rules or model.rules
        self.embedder = class_embedder(model, embedder, cache='default')

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path,
        *,
        clip: str | Path | CLIP | None = None,
        templates: Templates | None = None,
        embedder: ClassEmbedder | None = None,
        rules: DetectionRules | None = None,
        device: str | torch.device | None = None,
        cache: bool = True,
        **overrides: Any,
    ) -> Detector:
        """A detector out of one file: what training has written, or DetPro's weights.

        Args:
            weights: ``vild.safetensors``, which training exports, a checkpoint beside it, or DetPro's file.
            clip: a CLIP to embed the class names, where it is not the text tower in the file; DetPro's
                weights bring none, and were taught by ViT-B/32 of OpenAI.
            templates: prompt templates; the method's own unless given.
            embedder, rules: see the class.
            device: where it runs; None means a GPU if there is one.
            cache: whether class embeddings are kept on disk.
            overrides: what the weights do not tell, such as ``test_temperature``.

        Raises:
            InputError: weights that need a config, are damaged or are not finite.
        """
        model: Any = load_detector(weights, device, **overrides)
        if clip is None and embedder is None and model.clip is None:
            clip = getattr(model, 'clip_name', None)
        return cls._ready(model, clip, templates, embedder, rules, device, cache)

    @classmethod
    def from_config(
        cls,
        config: str | Path | Config,
        weights: str | Path,
        *,
        clip: str | Path | CLIP | None = None,
        templates: Templates | None = None,
        embedder: ClassEmbedder | None = None,
        rules: DetectionRules | None = None,
        device: str | torch.device | None = None,
        cache: bool = True,
    ) -> Detector:
        """A detector out of its config and its weights.

        Args:
            config: a file, the name of a config, or a config object; its ``test_dataloader`` says what is
                done to images.
            weights: a training checkpoint, or any file of weights that fits.
            clip: the CLIP that embeds class names, where it is not the one of the config.
            templates, embedder, rules, device, cache: see ``from_pretrained``.

        Raises:
            InputError: no config of a detector, or weights that do not fit or are not finite.
        """
        keep_clip = clip is None and embedder is None
        model = load_trained_detector(config, weights, device, keep_clip)
        return cls._ready(model, clip, templates, embedder, rules, device, cache)

    @classmethod
    def _ready(
        cls,
        model: Any,
        clip: str | Path | CLIP | None,
        templates: Templates | None,
        embedder: ClassEmbedder | None,
        rules: DetectionRules | None,
        device: str | torch.device | None,
        cache: bool,
    ) -> Detector:
        """Detector and text tower on one device."""
        place = choose_device(device)
        if clip is not None:
            model.clip = load_clip(clip, place)
        model = model.to(place)
        return cls(model, class_embedder(model, embedder, templates, 'default' if cache else None), rules)

    def set_vocabulary(self, class_names: ClassNames) -> Vocabulary:
        """Set the vocabulary for subsequent calls; it is embedded once."""
        vocabulary = as_vocabulary(class_names)
        if vocabulary != self.model.vocabulary:
            self.model.set_vocabulary(vocabulary, self.embedder.embed(vocabulary))
        return vocabulary

    def __call__(
        self,
        image: str | Path | Image.Image | Any,
        class_names: ClassNames | None = None,
        rules: DetectionRules | None = None,
        **changes: Any,
    ) -> Detections:
        """Detect in one image.

        Args:
            image: a file, a PIL image or an array (H, W, 3).
            class_names: names or a vocabulary; those of the last call unless given.
            rules: what counts as a detection; ``self.rules`` unless given.
            changes: single rules in place of these: ``score_threshold=0.5, class_thresholds={'cat': 0.7}``.

        Raises:
            InputError: an unreadable image, no class names at all, or an unknown rule.
        """
        return next(self.many([image], class_names, rules, **changes))[1]

    def many(
        self,
        images: Iterable[Any],
        class_names: ClassNames | None = None,
        rules: DetectionRules | None = None,
        batch_size: int = 1,
        skip: Callable[[InputError], None] | None = None,
        **changes: Any,
    ) -> Iterator[tuple[int, Detections]]:
        """Detect in a stream of images, in batches.

        Args:
            images: files, PIL images or arrays.
            class_names, rules, changes: see ``__call__``.
            batch_size: images that go through together.
            skip: is told of images that cannot be read, which are then left out.

        Yields:
            Place in the stream, and what was found.

        Raises:
            InputError: no class names at all; an unknown rule; an unreadable image, or, with ``skip``, none
                that is readable.
        """
        if batch_size < 1:
            raise InputError(f'batch_size must be at least 1, got {batch_size}')
        rules = (rules or self.rules).changed(**changes)
        if class_names is not None:
            self.set_vocabulary(class_names)
        if self.model.vocabulary is None:
            raise InputError('no vocabulary yet: pass class names, or call set_vocabulary first')
        stream, seen = iter(enumerate(images)), 0
        while batch := list(islice(stream, batch_size)):
            read: list[tuple[int, Image.Image]] = []
            for index, image in batch:
                try:
                    read.append((index, read_image(image)))
                except InputError as error:
                    if skip is None:
                        raise
                    skip(error)
            seen += len(read)
            yield from zip(
                [index for index, _ in read], self._detect([image for _, image in read], rules), strict=True
            )
        if not seen:
            raise InputError('none of the images could be read')

    @torch.no_grad()
    def _detect(self, images: list[Image.Image], rules: DetectionRules) -> list[Detections]:
        found = self.model.predict([np.asarray(image) for image in images], rules) if images else []
        return [self._result(one, image) for one, image in zip(found, images, strict=True)]

    def _result(self, one: DetectedObjects, image: Image.Image) -> Detections:
        vocabulary = self.model.vocabulary
        assert vocabulary is not None
        return Detections(
            one.xyxy.cpu().numpy(),
            one.confidence.cpu().numpy(),
            one.class_ids.cpu().numpy(),
            vocabulary,
            None if one.masks is None else one.masks.cpu().numpy(),
            image,
        )
