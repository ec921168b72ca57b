"""Segmentation quality of the patches of a CLIP during pre-training.  K: classes, (H, W): pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.class_embeddings import class_embedder
from clipdense.clip.model import CLIP
from clipdense.evaluation.mean_iou import confusion_matrix
from clipdense.evaluation.segmentation import SegmentationScores
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.utils.errors import InputError
from clipdense.utils.progress import track
from clipdense.vocab.vocabulary import Vocabulary

from .patches import embed_patches

_TRIED = 50  # number of thresholds
_SAMPLE = 100_000  # pixels whose cosines give the thresholds


class _Answers(NamedTuple):
    """For all pixels of a dataset: the best foreground class, its cosine, the label."""

    class_ids: Tensor
    cosine: Tensor
    label: Tensor


@EVALUATIONS.register_module()
class PatchSegmentation:
    """mIoU of the nearest class name of each patch, with a background threshold from another dataset.

    Pixels whose best cosine is below the threshold are background; the class name of the background is not
    used.  The threshold maximizes mIoU on ``tuning``, which may have labels of base classes only.

    Args:
        dataset: items ``{'images', 'samples'}`` and a ``vocabulary`` with a background, or its config.
        tuning: another dataset, or its config; all images of a dataset have the same size.
        patches: 'values' or 'last', see ``embed_patches``.
        templates: prompt templates.
        name: prefix of the names of the results.
        ignore_index: label of pixels that do not count.

    Raises:
        InputError: a vocabulary without a background.
    """

    def __init__(
        self,
        dataset: Any,
        tuning: Any,
        patches: Literal['values', 'last'] = 'values',
        templates: str | Sequence[str] = 'imagenet',
        name: str = 'patches',
        ignore_index: int = 255,
    ) -> None:
        self.dataset, self.tuning = build(dataset, DATASETS), build(tuning, DATASETS)
        for data in (self.dataset, self.tuning):
            if data.vocabulary.background is None:
                raise InputError(
                    'the vocabulary of the dataset has no background, which PatchSegmentation needs: add one'
                )
        self.patches, self.templates, self.name = patches, templates, name
        self.ignore_index = ignore_index

    def __call__(self, clip: CLIP) -> dict[str, float]:
        """``miou``, ``foreground``, ``background`` and ``threshold`` (a cosine)."""
        threshold = self._find(self._answers(clip, self.tuning))
        vocabulary = self.dataset.vocabulary
        scores = self._scores(self._answers(clip, self.dataset), threshold, vocabulary)
        report = {
            'miou': scores.mean_iou,
            'foreground': scores.foreground,
            'background': scores.background,
            'threshold': threshold,
        }
        return {f'{self.name}/{key}': value for key, value in report.items()}

    def _find(self, answers: _Answers) -> float:
        step = -(-len(answers.cosine) // _SAMPLE)
        tried = torch.quantile(answers.cosine[::step], torch.linspace(0, 1, _TRIED))
        vocabulary = self.tuning.vocabulary
        found = [self._scores(answers, float(value), vocabulary).mean_iou for value in tried]
        return float(tried[int(torch.tensor(found).argmax())])

    def _scores(self, answers: _Answers, threshold: float, vocabulary: Vocabulary) -> SegmentationScores:
        assert vocabulary.background is not None
        background = vocabulary.index(vocabulary.background)
        found = answers.class_ids.masked_fill(answers.cosine < threshold, background)
        counts = confusion_matrix(found[None], answers.label[None], len(vocabulary), self.ignore_index)
        return SegmentationScores(counts, vocabulary)

    @torch.no_grad()
    def _answers(self, clip: CLIP, dataset: Any) -> _Answers:
        vocabulary = dataset.vocabulary
        embedded = class_embedder(clip, templates=self.templates).embed(vocabulary)
        front = embedded.query_class != vocabulary.index(vocabulary.background)
        words, class_ids = embedded.queries[front], embedded.query_class[front].cpu()
        found: list[_Answers] = []
        for index in track(range(len(dataset)), self.name):
            item = dataset[index]
            image = clip.preprocess.normalize(item['images'].to(words.device))[None]
            _, patches = embed_patches(clip.image, image, self.patches)  # (1, D, h, w)
            cosines = torch.einsum('bdhw,kd->bkhw', F.normalize(patches, dim=1), words)
            size = item['samples'].size
            cosines = F.interpolate(cosines, size, mode='bilinear', align_corners=False)[0]  # (Q, H, W)
            best, query = cosines.flatten(1).max(dim=0)
            found.append(_Answers(class_ids[query.cpu()], best.cpu(), item['samples'].mask.flatten()))
        return _Answers(*(torch.cat(column) for column in zip(*found, strict=True)))
