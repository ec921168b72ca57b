"""How a segmenter does on classes that its masks showed, and on others, during and after training.

K: classes, (H, W): pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clipdense.clip.text_embeddings import embed_vocabulary
from clipdense.data.scenes import SceneSegmentation
from clipdense.data.transforms import collate
from clipdense.engine.hooks import EvaluationHook
from clipdense.engine.resume import random_state_kept
from clipdense.engine.train_step import unwrapped
from clipdense.evaluation.mean_iou import confusion_matrix, mean_iou
from clipdense.registry import EVALUATIONS, HOOKS
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.utils.modules import evaluating


@EVALUATIONS.register_module()
class SceneSplits:
    """mIoU over the foreground of base, novel and unseen scenes, among own names and among all.

    The mean is over the classes that the images show, so that names that are offered and nowhere to be seen
    cost what they draw away and no more.  Both ways end in the harmonic mean of base and novel.

    Args:
        splits: of the scenes.
        num_images: of each split.
        difficulty: of the scenes.
        templates: prompt templates.
        name: first part of the names of the results.
        batch_size: images that go through the model together.
    """

    def __init__(
        self,
        splits: Sequence[str] = ('base', 'novel', 'unseen'),
        num_images: int = 320,
        difficulty: str = 'standard',
        templates: str | Sequence[str] = 'name',
        name: str = 'scenes',
        batch_size: int = 32,
    ) -> None:
        self.templates, self.name, self.batch_size = templates, name, batch_size
        self.datasets: Mapping[tuple[str, str], SceneSegmentation] = {
            (offered, split): SceneSegmentation(split, num_images, difficulty, all_names=offered == 'all')
            for offered in ('own', 'all')
            for split in splits
        }

    def __call__(self, model: SegmentationModel) -> dict[str, float]:
        """``NAME/own/base`` and so on; the model keeps its vocabulary."""
        kept = model.vocabulary, model.queries, model.query_class
        found: dict[str, float] = {}
        for (offered, split), dataset in self.datasets.items():
            found[f'{self.name}/{offered}/{split}'] = self.score(model, dataset)
        for offered in ('own', 'all'):
            base, novel = (found.get(f'{self.name}/{offered}/{split}') for split in ('base', 'novel'))
            if base is not None and novel is not None:
                found[f'{self.name}/{offered}/harmonic'] = 2 * base * novel / max(base + novel, 1e-12)
        model.vocabulary, model.queries, model.query_class = kept
        if kept[0] is not None:
            model.num_classes = len(kept[0])
        return found

    def score(self, model: SegmentationModel, dataset: Any) -> float:
        """Mean IoU of the foreground classes that occur in a dataset."""
        vocabulary = dataset.vocabulary
        embed = getattr(model, 'embed', None)
        embeddings = (
            embed_vocabulary(model.clip, vocabulary, self.templates)
            if embed is None
            else embed(vocabulary, self.templates)
        )
        model.set_vocabulary(vocabulary, embeddings)
        confusion = torch.zeros(len(vocabulary), len(vocabulary), dtype=torch.int64)
        for batch in DataLoader(dataset, self.batch_size, collate_fn=collate):
            for sample in model.test_step(batch):
                confusion += confusion_matrix(sample.prediction.cpu(), sample.mask, len(vocabulary))
        return foreground_iou(confusion, model.background_index)


@HOOKS.register_module()
class SegmenterEvaluationHook(EvaluationHook):
    """``EvaluationHook`` for evaluations that take the whole segmenter instead of its CLIP."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Every evaluation's numbers."""
        model = unwrapped(model)
        metrics: dict[str, float] = {}
        with evaluating(model), random_state_kept():
            for evaluation in self.evaluations:
                metrics |= evaluation(model)
        return metrics


def foreground_iou(confusion: Tensor, background: int | None) -> float:
    """Mean IoU of the classes that are not background and have labelled pixels; NaN where none has."""
    shown = confusion.sum(1) > 0
    if background is not None:
        shown[background] = False
    return float(mean_iou(confusion).iou[shown].mean())
