"""Evaluation on seen and unseen classes, during and after training.  K: classes, (H, W): pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from clipdense.clip.class_embeddings import class_embedder
from clipdense.data.scenes import SceneSegmentation
from clipdense.engine.hooks import EvaluationHook
from clipdense.engine.parallel import unwrapped
from clipdense.engine.resume import random_state_kept
from clipdense.evaluation.mean_iou import harmonic_mean
from clipdense.evaluation.segmentation import SegmentationEvaluator
from clipdense.registry import EVALUATIONS, HOOKS
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.utils.modules import evaluating


@EVALUATIONS.register_module()
class SceneSplits:
    """Foreground mIoU on base, novel and unseen scenes, with the class names of the split and with all.

    The mean is over the classes that occur in the images; other class names of the vocabulary lower it only
    by false positives.  The harmonic mean of base and novel is reported for both vocabularies.

    Args:
        splits: splits of the scenes.
        num_images: number of images per split.
        difficulty: difficulty of the scenes.
        templates: prompt templates.
        name: prefix of the names of the results.
    """

    def __init__(
        self,
        splits: Sequence[str] = ('base', 'novel', 'unseen'),
        num_images: int = 320,
        difficulty: str = 'standard',
        templates: str | Sequence[str] = 'name',
        name: str = 'scenes',
    ) -> None:
        self.templates, self.name = templates, name
        self.datasets: Mapping[tuple[str, str], SceneSegmentation] = {
            (offered, split): SceneSegmentation(split, num_images, difficulty, all_names=offered == 'all')
            for offered in ('own', 'all')
            for split in splits
        }

    def __call__(self, model: SegmentationModel) -> dict[str, float]:
        """``NAME/own/base`` etc.; the vocabulary of the model is restored afterwards."""
        kept = model.vocabulary, model.queries, model.query_class
        found: dict[str, float] = {}
        for (offered, split), dataset in self.datasets.items():
            found[f'{self.name}/{offered}/{split}'] = self.score(model, dataset)
        for offered in ('own', 'all'):
            base, novel = (found.get(f'{self.name}/{offered}/{split}') for split in ('base', 'novel'))
            if base is not None and novel is not None:
                found[f'{self.name}/{offered}/harmonic'] = harmonic_mean(base, novel)
        model.vocabulary, model.queries, model.query_class = kept
        if kept[0] is not None:
            model.num_classes = len(kept[0])
        return found

    def score(self, model: SegmentationModel, dataset: Any) -> float:
        """Mean IoU of the foreground classes that occur in a dataset."""
        vocabulary = dataset.vocabulary
        embedder = class_embedder(model, templates=self.templates)
        model.set_vocabulary(vocabulary, embedder.embed(vocabulary))
        return SegmentationEvaluator(dataset, title=self.name, distractors=True)(model).foreground


@HOOKS.register_module()
class SegmenterEvaluationHook(EvaluationHook):
    """``EvaluationHook`` for evaluations that take the segmenter instead of its CLIP."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The metrics of all evaluations."""
        model = unwrapped(model)
        metrics: dict[str, float] = {}
        with evaluating(model), random_state_kept():
            for evaluation in self.evaluations:
                metrics |= evaluation(model)
        return metrics
