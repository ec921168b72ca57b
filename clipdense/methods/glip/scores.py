"""From token logits to detections.  B: images, A: anchors of a level, T: tokens, K: classes, n: candidates.

Source: microsoft/GLIP modeling/rpn/inference.py ``ATSSPostProcessor``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from clipdense.utils.errors import InputError

from .boxes import clip, decode, exclusive

Aggregate = Literal['mean', 'max', 'power', 'onehot']


@dataclass(frozen=True)
class CandidateRules:
    """Which anchors of a level go into the suppression of overlapping boxes.

    Args:
        threshold: lowest class score, before centerness.
        per_level: pairs of anchor and class of a level, at most.
        aggregate: how the probabilities of the tokens of a class become its score: 'mean', 'max', 'power',
            the geometric mean, or 'onehot', for weights that were trained without words: class k is token k.

    Raises:
        InputError: a value out of range.
    """

    threshold: float = 0.05
    per_level: int = 1000
    aggregate: Aggregate = 'mean'

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise InputError(
                f'threshold of candidates must be at least 0 and below 1, got {self.threshold!r}'
            )
        if self.per_level < 1:
            raise InputError(f'per_level must be at least 1, got {self.per_level!r}')
        if self.aggregate not in get_args(Aggregate):
            raise InputError(f'aggregate must be one of {get_args(Aggregate)}, got {self.aggregate!r}')


class Candidates(NamedTuple):
    """Boxes of an image with their classes, before the suppression."""

    boxes: Tensor  # (n, 4), x2 and y2 are the last pixels
    scores: Tensor  # (n,)
    class_ids: Tensor  # (n,)
    names: Tensor  # (n, 2) number of the text among those of the image, and of the name in the text


def class_scores(probabilities: Tensor, positive: Tensor, aggregate: Aggregate = 'mean') -> Tensor:
    """Token probabilities (..., A, T), tokens of the classes (K, T) -> class scores (..., A, K).

    Args:
        probabilities: of the tokens.
        positive: 1 where a token belongs to a class; every class has at least one.
        aggregate: see ``CandidateRules``.
    """
    if aggregate == 'onehot':
        return probabilities[..., : len(positive)]
    share = positive / positive.sum(dim=1, keepdim=True)  # (K, T)
    if aggregate == 'mean':
        return probabilities @ share.mT
    if aggregate == 'power':
        return (probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log() @ share.mT).exp()
    columns = [probabilities[..., row.bool()].amax(dim=-1) for row in positive]
    return torch.stack(columns, dim=-1)


def candidates(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    centerness: Sequence[Tensor],
    anchors: Sequence[Tensor],
    positive: Tensor,
    image_size: tuple[int, int],
    rules: CandidateRules,
) -> Candidates:
    """The best anchors of each level for one image.

    The best are those with the highest product of class score and centerness; its root is the score.

    Args:
        logits: (A, T) of each level.
        deltas: (4, h, w) of each level.
        centerness: (1, h, w) of each level, logits.
        anchors: (A, 4) of each level.
        positive: (K, T), see ``class_scores``.
        image_size: (H, W) pixels.
        rules: which anchors are taken.
    """
    boxes, scores, classes = [], [], []
    for logit, delta, center, anchor in zip(logits, deltas, centerness, anchors, strict=True):
        score = class_scores(logit.sigmoid(), positive, rules.aggregate)  # (A, K)
        kept = score > rules.threshold
        ranked = (score * center.flatten().sigmoid()[:, None])[kept]  # (n,)
        place, class_ids = kept.nonzero(as_tuple=True)
        ranked, order = ranked.topk(min(rules.per_level, len(ranked)))
        place, class_ids = place[order], class_ids[order]
        boxes.append(decode(delta.flatten(1).mT[place], anchor[place]))
        scores.append(ranked.sqrt())
        classes.append(class_ids)
    class_ids = torch.cat(classes)
    names = torch.stack([torch.zeros_like(class_ids), class_ids], dim=1)
    return Candidates(clip(torch.cat(boxes), image_size), torch.cat(scores), class_ids, names)


def suppress(
    found: Candidates,
    iou_threshold: float = 0.6,
    score_threshold: float | Tensor = 0.0,
    class_agnostic: bool = False,
    max_detections: int = 100,
) -> Candidates:
    """Without boxes that overlap a better one of their class, best first.

    Args:
        found: of an image.
        iou_threshold: of two boxes that overlap by more, the one with the lower score is removed.
        score_threshold: detections score at least this; a number, or one for each class (K,).
        class_agnostic: whether boxes of different classes remove each other too.
        max_detections: at most.
    """
    limit: Any = score_threshold
    if isinstance(limit, Tensor):
        limit = limit.to(found.scores.device)[found.class_ids]
    kept = (found.scores >= limit).nonzero()[:, 0]
    boxes, scores, classes, names = (one[kept] for one in found)
    borders = exclusive(boxes)
    best = (
        nms(borders, scores, iou_threshold)
        if class_agnostic
        else batched_nms(borders, scores, classes, iou_threshold)
    )[:max_detections]
    return Candidates(boxes[best], scores[best], classes[best], names[best])
