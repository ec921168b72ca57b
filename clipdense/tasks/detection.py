"""Detection of class names given at run time: what a detector answers, and what counts as a detection.

(H, W): pixels, R: regions, K: classes, n: detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms, nms

from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError, nearest
from clipdense.vocab.vocabulary import Vocabulary

_CANDIDATES = 10_000  # pairs of box and class, the best of an image, that suppression looks at

Pixels = NDArray[np.uint8] | Tensor  # (H, W, 3) uint8 RGB


@dataclass(frozen=True)
class DetectionRules:
    """What counts as a detection.

    Args:
        score_threshold: lowest score of a detection, 0 to 1.
        class_thresholds: another threshold for some classes, by class name or index.
        iou_threshold: of two boxes that overlap by more than this IoU, 0 to 1, the one with the lower score
            is removed.
        class_agnostic: whether boxes of different classes remove each other too.
        max_detections: detections of an image, at most.

    Raises:
        InputError: a number out of range, named.
    """

    score_threshold: float = 0.3
    class_thresholds: Mapping[str | int, float] = field(default_factory=dict)
    iou_threshold: float = 0.5
    class_agnostic: bool = False
    max_detections: int = 100

    def __post_init__(self) -> None:
        shares = {'score_threshold': self.score_threshold, 'iou_threshold': self.iou_threshold}
        if not isinstance(self.class_thresholds, Mapping):
            raise InputError(
                f'class_thresholds must be a dict of class names and scores, got {self.class_thresholds!r}'
            )
        shares |= {f'class_thresholds[{key!r}]': value for key, value in self.class_thresholds.items()}
        for name, value in shares.items():
            if not _is_number(value) or not 0 <= value <= 1:
                raise InputError(f'{name} must be a number between 0 and 1, got {value!r}')
        count = self.max_detections
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f'max_detections must be a whole number, at least 1, got {count!r}')
        if not isinstance(self.class_agnostic, bool):
            raise InputError(f'class_agnostic must be True or False, got {self.class_agnostic!r}')

    def changed(self, **changes: Any) -> DetectionRules:
        """These rules with some replaced.

        Raises:
            InputError: an unknown rule (the nearest is named), or a number out of range.
        """
        known = [one.name for one in fields(self)]
        for name in changes:
            if name not in known:
                raise InputError(
                    f'unknown detection rule {name!r}.{nearest(name, known)} Rules: {", ".join(known)}'
                )
        return replace(self, **changes)

    def thresholds(self, vocabulary: Vocabulary) -> float | Tensor:
        """The score threshold: one number, or (K,) where classes have their own.

        Raises:
            InputError: a class that the vocabulary does not have.
        """
        if not self.class_thresholds:
            return self.score_threshold
        found = torch.full((len(vocabulary),), self.score_threshold)
        seen: dict[int, float] = {}
        for key, value in self.class_thresholds.items():
            index = vocabulary.index(key) if isinstance(key, str) else key
            if not 0 <= index < len(vocabulary):
                raise InputError(
                    f'class_thresholds names class {index}, but the vocabulary has {len(vocabulary)} classes'
                )
            if seen.setdefault(index, value) != value:
                raise InputError(
                    f'class_thresholds gives class {vocabulary.class_names[index]!r} two thresholds'
                )
            found[index] = value
        return found


class DetectedObjects(NamedTuple):
    """Detections of one image, best first, in pixels of the image as it was given."""

    xyxy: Tensor  # (n, 4) x1, y1, x2, y2
    confidence: Tensor  # (n,)
    class_ids: Tensor  # (n,) int64
    masks: Tensor | None = None  # (n, H, W) bool


class DetectionModel(Protocol):
    """A detector; an ``nn.Module`` that does its own resizing, normalization and batching.

    One that encodes images without class names also has ``encode_image(image)``, and
    ``predict_encoded(encoded, rules)``, which returns what ``predict`` returns for this image alone.

    Attributes:
        vocabulary: the current one; None before ``set_vocabulary``.
        rules: those of its config, where the caller gives none.
        clip: the text tower that its class embeddings come from; None where they come from elsewhere.
        templates: name of the prompt templates that the method was published with.

    One that reads several vocabularies at once has ``predict_each(images, vocabularies, rules)``, with a
    vocabulary for each image.

    One that reads the words of class names together with the image has ``reads_names = True`` and an
    ``embedder`` of its own, whose embeddings it does not need.
    """

    clip: Any
    templates: str

    @property
    def vocabulary(self) -> Vocabulary | None: ...

    @property
    def rules(self) -> DetectionRules: ...

    def set_vocabulary(self, vocabulary: Vocabulary, embeddings: ClassEmbeddings) -> None:
        """Set the vocabulary for subsequent calls.  No weight changes."""

    def predict(self, images: Sequence[Pixels], rules: DetectionRules) -> list[DetectedObjects]:
        """Detect in RGB images (H, W, 3) uint8, of any sizes.

        Raises:
            InputError: there is no vocabulary yet.
        """


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float | Tensor = 0.0,
    iou_threshold: float = 0.5,
    class_agnostic: bool = False,
    max_detections: int = 300,
    candidates: int = _CANDIDATES,
) -> DetectedObjects:
    """Threshold, suppress, keep the best.  Boxes are shared by all classes, so each is looked at K times.

    Args:
        boxes: (R, 4) x1, y1, x2, y2.
        scores: (R, K).
        score_threshold: detections must score more; a number, or one for each class (K,).
        iou_threshold, class_agnostic, max_detections: see ``DetectionRules``.
        candidates: pairs of box and class that are kept before suppression.
    """
    if isinstance(score_threshold, Tensor):
        score_threshold = score_threshold.to(scores.device)
    kept = scores > score_threshold  # (R, K)
    chosen = scores[kept]
    region, class_ids = kept.nonzero(as_tuple=True)
    if len(chosen) > candidates:
        chosen, order = chosen.topk(candidates)
        region, class_ids = region[order], class_ids[order]
    pairs = boxes[region]
    if class_agnostic:
        best = nms(pairs, chosen, iou_threshold)
    else:
        best = batched_nms(pairs, chosen, class_ids, iou_threshold)
    best = best[:max_detections]
    return DetectedObjects(pairs[best], chosen[best], class_ids[best])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
