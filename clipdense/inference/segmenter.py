"""Segment images with words.  (H, W): pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from clipdense.clip.model import CLIP
from clipdense.clip.text_embeddings import embed_vocabulary
from clipdense.data.batches import to_tensor
from clipdense.methods.groupvit.explain import StageMap, explain
from clipdense.methods.groupvit.segmenter import GroupVitSegmenter
from clipdense.tasks.refine import PAMR
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image
from clipdense.vocab.vocabulary import Vocabulary

from .hub import as_vocabulary, load_segmenter, load_trained
from .results import Segmentation

Words = Vocabulary | str | list[str] | tuple[str, ...]


class Segmenter:
    """A segmentation model and the text tower that gives it its words.

    Args:
        model: any segmenter.
        clip: the CLIP, or text half of one, whose words the model understands.
        templates: name of a set of prompt templates, or the templates; the method's own unless said.
        cache: whether class embeddings are kept on disk.
    """

    def __init__(
        self,
        model: SegmentationModel,
        clip: Any,
        templates: str | Sequence[str] | None = None,
        cache: bool = True,
    ) -> None:
        self.model, self.clip = model.eval(), clip
        self.templates, self.cache = templates or model.templates, cache

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path | CLIP,
        method: str | None = None,
        *,
        slide: Slide | int | None = None,
        background_threshold: float | None = None,
        area_threshold: float = 0.0,
        refine: bool | PAMR = False,
        options: Mapping[str, Any] | None = None,
        proxy: nn.Module | str | None = None,
        templates: str | Sequence[str] | None = None,
        device: str | None = None,
        cache: bool = True,
        **overrides: Any,
    ) -> Segmenter:
        """A segmenter out of a name in the zoo or a file in any official format.

        Args:
            weights, method, slide, background_threshold, device: see ``hub.load_segmenter``.
            area_threshold: see ``SegmentationModel``.
            refine: let scores follow the edges of the image: ``PAMR`` as published, or your own.
            options, proxy, overrides: see ``hub.load_segmenter``.
            templates, cache: see the class.
        """
        model = load_segmenter(
            weights,
            method,
            slide,
            background_threshold,
            device,
            options=options,
            proxy=proxy,
            **overrides,
        )
        model.area_threshold = area_threshold
        model.refiner = PAMR() if refine is True else refine or None
        return cls(model, model.clip, templates, cache)

    @classmethod
    def from_config(
        cls,
        config: str | Path,
        weights: str | Path,
        *,
        options: Sequence[str] | Mapping[str, Any] = (),
        templates: str | Sequence[str] | None = None,
        device: str | None = None,
        cache: bool = True,
    ) -> Segmenter:
        """A segmenter that was trained by a config.

        Args:
            config, weights, options, device: see ``hub.load_trained``.
            templates, cache: see the class; templates should be those of the training.

        Raises:
            InputError: a model without a text tower, whose words are a file of embeddings.
        """
        model = load_trained(config, weights, device, options)
        if getattr(model, 'clip', None) is None:
            raise InputError(f'{config} has no text tower: its words come from a file of embeddings')
        return cls(model, model.clip, templates, cache)

    def set_vocabulary(self, words: Words) -> Vocabulary:
        """Choose the words for the images to come; they are embedded once."""
        vocabulary = as_vocabulary(words)
        if vocabulary != self.model.vocabulary:
            embeddings = embed_vocabulary(
                self.clip, vocabulary, self.templates, cache='default' if self.cache else None
            )
            self.model.set_vocabulary(vocabulary, embeddings)
        return vocabulary

    def __call__(self, image: str | Path | Image.Image | Any, words: Words | None = None) -> Segmentation:
        """Segment one image.

        Args:
            image: a file, a PIL image or an array (H, W, 3).
            words: class names; those of the last call where left out.

        Returns:
            A mask of exactly the image's size as displayed.

        Raises:
            InputError: an unreadable image, or no words at all.
        """
        if words is not None:
            self.set_vocabulary(words)
        loaded = read_image(image)
        device = next(self.model.parameters()).device
        pixels = self.model.data_preprocessor.normalise(to_tensor(loaded).to(device))
        labels = self.model.segment(pixels)
        assert self.model.vocabulary is not None  # segment() has refused otherwise
        return Segmentation(
            labels.classes.cpu().numpy(), labels.probability.cpu().numpy(), self.model.vocabulary, loaded
        )

    @property
    def makes_groups(self) -> bool:
        """Whether it is a GroupViT, which can explain itself."""
        return isinstance(self.model, GroupVitSegmenter)

    def explain(self, image: str | Path | Image.Image | Any) -> list[StageMap]:
        """The groups that a GroupViT makes of an image, stage by stage, each with its word.

        Raises:
            InputError: another method, an unreadable image, or no words at all.
        """
        if not isinstance(self.model, GroupVitSegmenter):
            raise InputError(
                f'a {type(self.model).__name__} makes no groups: only a GroupViT explains itself'
            )
        return explain(self.model, read_image(image))
