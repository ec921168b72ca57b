"""How well the patches of a CLIP segment, measured while it is pre-trained.  K: classes, (H, W): pixels."""

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

_TRIED = 50  # thresholds
_SAMPLE = 100_000  # pixels that they are spread over


class _Answers(NamedTuple):
    """Of all pixels of a dataset: the best class that is not background, its cosine, the label."""

    class_ids: Tensor
    cosine: Tensor
    label: Tensor


@EVALUATIONS.register_module()
class PatchSegmentation:
    """mIoU of the nearest class name to each patch, with a background threshold from another dataset.

    The background is never asked for: pixels whose best cosine is below the threshold are background.  The
    threshold is the one with the highest mIoU on ``tuning``, whose labels may be of base classes alone.

    Args:
        dataset: items ``{'images', 'samples'}`` and a ``vocabulary`` with a background, or its config.
        tuning: another one, or its config; all images of each dataset are of one size.
        patches: 'values' or 'last', see ``embed_patches``.
        templates: prompt templates.
        name: first part of the names of the results.
        ignore_index: label that is not counted.

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
                raise InputError('patches are parted from a background: the vocabulary needs one')
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
