"""How well a CLIP segments without training, measured while it is pre-trained.  K: classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.clip.model import CLIP
from clipdense.clip.text_embeddings import embed_vocabulary
from clipdense.evaluation.mean_iou import confusion_matrix, mean_iou
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.tasks.windows import Slide
from clipdense.utils.progress import track
from clipdense.vocab.vocabulary import Vocabulary

from .segmenter import DenseCLIP


@EVALUATIONS.register_module()
class ZeroShotSegmentation:
    """mIoU of a training-free segmenter on a labelled dataset, with chance beside it.

    Chance is the mIoU of a mask whose pixels are drawn from all classes alike.

    Args:
        dataset: items ``{'images', 'samples'}``, a ``vocabulary`` and an ``ignore_index``, or its config.
        method, slide, background_threshold, options, refiner, proxy: see ``DenseCLIP``.
        templates: prompt templates.
        name: first part of the names of the results.
        background_words: what the background is asked by; what the vocabulary says where left out.
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
        """``miou``, ``foreground`` (without the background class), and chance of both."""
        model = DenseCLIP(clip, **self.settings)
        model = model.to(next(clip.parameters()).device).eval()
        vocabulary = self._vocabulary()
        model.set_vocabulary(vocabulary, embed_vocabulary(clip, vocabulary, self.templates))
        classes = len(vocabulary)
        found = torch.zeros(classes, classes, dtype=torch.int64)
        guessed = torch.zeros_like(found)
        dice = torch.Generator().manual_seed(0)
        for index in track(range(len(self.dataset)), self.name):
            item = self.dataset[index]
            mask = item['samples'].mask
            image = model.data_preprocessor.normalise(item['images'].to(model.queries.device))
            labels = model.segment(image, item['samples'].size).classes.cpu()
            guess = torch.randint(classes, mask.shape, generator=dice)
            found += confusion_matrix(labels, mask, classes, self.dataset.ignore_index)
            guessed += confusion_matrix(guess, mask, classes, self.dataset.ignore_index)
        scores, chance = mean_iou(found), mean_iou(guessed)
        return {
            f'{self.name}/miou': scores.mean_iou,
            f'{self.name}/foreground': _foreground(scores.iou, model.background_index),
            f'{self.name}/chance': chance.mean_iou,
            f'{self.name}/foreground_chance': _foreground(chance.iou, model.background_index),
        }

    def _vocabulary(self) -> Vocabulary:
        vocabulary = self.dataset.vocabulary
        if not self.background_words or vocabulary.background is None:
            return vocabulary
        return replace(
            vocabulary, synonyms={**vocabulary.synonyms, vocabulary.background: self.background_words}
        )


def _foreground(iou: Tensor, background: int | None) -> float:
    """Mean IoU of the classes that are not background and occur."""
    kept = [value for index, value in enumerate(iou.tolist()) if index != background and value == value]
    return sum(kept) / len(kept) if kept else float('nan')
