"""Training-free segmentation as an evaluation during pre-training.  K: classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from clipdense.clip.class_embeddings import class_embedder
from clipdense.clip.model import CLIP
from clipdense.evaluation.segmentation import SegmentationEvaluator, chance_labeler, labeler
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.tasks.windows import Slide
from clipdense.vocab.vocabulary import Vocabulary

from .segmenter import DenseCLIP


@EVALUATIONS.register_module()
class ZeroShotSegmentation:
    """mIoU of a training-free segmenter on a labeled dataset, and the chance level.

    Chance is the mIoU of masks whose pixels are drawn uniformly from all classes.

    Args:
        dataset: items ``{'images', 'samples'}``, a ``vocabulary`` and an ``ignore_index``, or its config.
        method, slide, background_threshold, options, refiner, proxy: see ``DenseCLIP``.
        templates: prompt templates.
        name: prefix of the names of the results.
        background_words: text queries for the background class; those of the vocabulary by default.
    """

    def __init__(
        self,
        dataset: Any,
        method: str = 'maskclip',
        slide: Slide | dict | None = None,
        background_threshold: float = 0.0,
        templates: str | Sequence[str] = 'imagenet',
        name: str = 'segmentation',
        options: Mapping[str, Any] | None = None,
        refiner: nn.Module | dict | None = None,
        background_words: Sequence[str] = (),
        proxy: nn.Module | dict | str | None = None,
    ) -> None:
        self.dataset = build(dataset, DATASETS)
        self.settings: dict[str, Any] = {
            'method': method,
            'slide': slide,
            'background_threshold': background_threshold,
            'options': options,
            'refiner': refiner,
            'proxy': proxy,
        }
        self.templates, self.name = templates, name
        self.background_words = tuple(background_words)

    def __call__(self, clip: CLIP) -> dict[str, float]:
        """``miou``, ``foreground`` (mIoU without the background class), and the chance level of both."""
        model = DenseCLIP(clip, **self.settings)
        model = model.to(next(clip.parameters()).device).eval()
        vocabulary = self._vocabulary()
        model.set_vocabulary(vocabulary, class_embedder(clip, templates=self.templates).embed(vocabulary))
        labelers = {'model': labeler(model), 'chance': chance_labeler(len(vocabulary))}
        scores = SegmentationEvaluator(self.dataset, title=self.name).compare(labelers, model)
        return {
            f'{self.name}/miou': scores['model'].mean_iou,
            f'{self.name}/foreground': scores['model'].foreground,
            f'{self.name}/chance': scores['chance'].mean_iou,
            f'{self.name}/foreground_chance': scores['chance'].foreground,
        }

    def _vocabulary(self) -> Vocabulary:
        vocabulary = self.dataset.vocabulary
        if not self.background_words or vocabulary.background is None:
            return vocabulary
        return replace(
            vocabulary, synonyms={**vocabulary.synonyms, vocabulary.background: self.background_words}
        )
