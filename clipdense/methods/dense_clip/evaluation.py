"""How well a CLIP segments without training, measured while it is pre-trained.  K: classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipdense.clip.model import CLIP
from clipdense.clip.text_embeddings import embed_vocabulary
from clipdense.evaluation.mean_iou import confusion_matrix, mean_iou
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.tasks.windows import Slide
from clipdense.utils.progress import track

from .segmenter import DenseCLIP


@EVALUATIONS.register_module()
class ZeroShotSegmentation:
    """mIoU of a training-free segmenter on a labelled dataset, with chance beside it.

    Chance is the mIoU of a mask whose pixels are drawn from all classes alike.

    Args:
        dataset: items ``{'images', 'samples'}`` and a ``vocabulary``, or its config.
        recipe, slide, background_threshold: see ``DenseCLIP``.
        templates: prompt templates.
        name: first part of the names of the results.
        ignore_index: label that is not counted.
    """

    def __init__(
        self,
        dataset: Any,
        recipe: str = 'maskclip',
        slide: Slide | dict | None = None,
        background_threshold: float = 0.0,
        templates: str | Sequence[str] = 'imagenet',
        name: str = 'segmentation',
        ignore_index: int = 255,
    ) -> None:
        self.dataset = build(dataset, DATASETS)
        self.recipe, self.slide, self.background_threshold = recipe, slide, background_threshold
        self.templates, self.name, self.ignore_index = templates, name, ignore_index

    def __call__(self, clip: CLIP) -> dict[str, float]:
        """``miou``, ``foreground`` (without the background class) and ``chance``."""
        model = DenseCLIP(clip, self.recipe, self.slide, background_threshold=self.background_threshold)
        model = model.to(next(clip.parameters()).device).eval()
        vocabulary = self.dataset.vocabulary
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
            found += confusion_matrix(labels, mask, classes, self.ignore_index)
            guessed += confusion_matrix(guess, mask, classes, self.ignore_index)
        scores = mean_iou(found)
        return {
            f'{self.name}/miou': scores.mean_iou,
            f'{self.name}/foreground': _foreground(scores.iou, model.background_index),
            f'{self.name}/chance': mean_iou(guessed).mean_iou,
        }


def _foreground(iou: Tensor, background: int | None) -> float:
    """Mean IoU of the classes that are not background and occur."""
    kept = [value for index, value in enumerate(iou.tolist()) if index != background and value == value]
    return sum(kept) / len(kept) if kept else float('nan')
