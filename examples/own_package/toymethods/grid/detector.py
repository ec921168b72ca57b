"""Boxes are the cells of a grid.  R: boxes, K: classes, D: joint space, (h, w): grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.model import CLIP
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.detection import DetectedObjects, DetectionRules, select_detections
from clipdense.utils.image_io import read_image
from clipdense.vocab.vocabulary import Vocabulary


class Grid(nn.Module):
    """Scores each cell by the mean of the dense embeddings in it."""

    method = 'grid'
    templates = 'imagenet'

    def __init__(self, clip: CLIP, cells: int = 2) -> None:
        super().__init__()
        self.clip, self.cells = clip, cells
        self.vocabulary: Vocabulary | None = None
        self.embeddings: ClassEmbeddings | None = None
        self.rules = DetectionRules(score_threshold=0.0)

    def set_vocabulary(self, vocabulary: Vocabulary, embeddings: ClassEmbeddings) -> None:
        """Set the class names for subsequent calls."""
        self.vocabulary, self.embeddings = vocabulary, embeddings

    @torch.no_grad()
    def predict(self, images: Sequence[Any], rules: DetectionRules | None = None) -> list[DetectedObjects]:
        """Images (H, W, 3) uint8 -> detections in pixels of each image."""
        return [self._predict(image, rules or self.rules) for image in images]

    def _predict(self, image: Any, rules: DetectionRules) -> DetectedObjects:
        assert self.embeddings is not None
        assert self.vocabulary is not None
        array = image.cpu().numpy() if isinstance(image, Tensor) else image
        height, width = array.shape[:2]
        pixels = self.clip.preprocess(read_image(array))[None].to(self.embeddings.queries.device)
        dense = F.adaptive_avg_pool2d(self.clip.encode_dense(pixels), self.cells)  # (1, D, cells, cells)
        regions = F.normalize(dense.flatten(2)[0].mT, dim=-1)  # (R, D)
        scores = (regions @ self.embeddings.queries.mT * 10).softmax(dim=-1)  # (R, K)
        xs = torch.linspace(0, width, self.cells + 1)
        ys = torch.linspace(0, height, self.cells + 1)
        boxes = torch.stack(
            [
                torch.stack([xs[column], ys[row], xs[column + 1], ys[row + 1]])
                for row in range(self.cells)
                for column in range(self.cells)
            ]
        )  # (R, 4)
        return select_detections(
            boxes.to(scores.device),
            scores,
            rules.thresholds(self.vocabulary),
            rules.iou_threshold,
            rules.class_agnostic,
            rules.max_detections,
        )


def build(clip: CLIP, name: str, options: Mapping[str, Any]) -> Grid:
    """The detector on a CLIP."""
    return Grid(clip, **options)
