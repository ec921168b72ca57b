"""Refinement of masks to the edges of the image.

q: classes, (H, W): pixels, P: neighbors of a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError

from .bands import Rows, upsample_rows

_AROUND = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]
_BLOCK = 1 << 20  # numbers of a block of classes: what the caches of a processor hold


@MODELS.register_module()
class PAMR(nn.Module):
    """Pixel-adaptive mask refinement: averages scores over neighbors of similar color.  It has no weights.

    The affinities depend on the image only and each class is refined separately, so classes may be refined in
    chunks with the same result.

    Args:
        iterations: number of iterations.
        dilations: distances of the eight neighbors of a pixel, in pixels.

    Raises:
        InputError: no iterations, or no positive distance.

    Source: Araslanov and Roth, Single-Stage Semantic Segmentation from Image Labels, CVPR 2020, section 4.3.
    """

    def __init__(self, iterations: int = 10, dilations: Sequence[int] = (8, 16)) -> None:
        super().__init__()
        if iterations < 1 or not dilations or min(dilations) < 1:
            raise InputError(f'PAMR needs iterations and distances >= 1, got {iterations} and {dilations}')
        self.iterations, self.dilations = iterations, tuple(dilations)

    @property
    def reach(self) -> int:
        """Distance in pixels up to which scores influence each other; a band needs so many more rows."""
        return self.iterations * max(self.dilations)

    def forward(self, image: Tensor, scores: Tensor) -> Tensor:
        """(3, H, W) in any linear color scale, (q, H, W) -> (q, H, W)."""
        return self.refine(scores, self.affinity(image))

    def affinity(self, image: Tensor) -> Tensor:
        """(3, H, W) -> (P, H, W): the weight of each neighbor; sums to 1."""
        spread = self._deviation(image)  # (3, H, W)
        likeness = [
            ((near - image).abs() / (1e-8 + 0.1 * spread)).mean(dim=0).neg_()
            for near in self._neighbors(image)
        ]
        return torch.stack(likeness).softmax(dim=0)

    def refine(self, scores: Tensor, affinity: Tensor) -> Tensor:
        """(q, H, W), (P, H, W) -> (q, H, W)."""
        affinity = affinity.to(scores.dtype)
        block = max(1, _BLOCK // scores[0].numel())
        return torch.cat([self._flow(part, affinity) for part in scores.split(block)])

    def _flow(self, scores: Tensor, affinity: Tensor) -> Tensor:
        for _ in range(self.iterations):
            flown = torch.zeros_like(scores)
            for near, share in zip(self._neighbors(scores), affinity, strict=True):
                flown.addcmul_(near, share)
            scores = flown
        return scores

    def _deviation(self, image: Tensor) -> Tensor:
        """Standard deviation over the neighbors and, once per distance, the pixel itself: (3, H, W)."""
        own = len(self.dilations)
        count = own * (len(_AROUND) + 1)
        mean = (sum(self._neighbors(image)) + own * image) / count
        squares = sum((near - mean).square() for near in self._neighbors(image))
        return ((squares + own * (image - mean).square()) / (count - 1)).sqrt()

    def _neighbors(self, planes: Tensor) -> Iterator[Tensor]:
        """Views (..., H, W) of the planes shifted to each neighbor; borders are replicated."""
        height, width = planes.shape[-2:]
        rim = max(self.dilations)
        padded = F.pad(planes[None], (rim,) * 4, mode='replicate')[0]
        for distance in self.dilations:
            for row, column in _AROUND:
                top, left = rim + row * distance, rim + column * distance
                yield padded[..., top : top + height, left : left + width]


class Refinement:
    """A refiner and the affinities of an image, in bands of rows.

    Args:
        refiner: as ``PAMR``.
        image: (3, h, w); upsampled like the scores, so that both are aligned.
        size: (H, W) of the scores.
        given: where the image has only some rows: which, and h of the whole image.
    """

    def __init__(
        self, refiner: Any, image: Tensor, size: tuple[int, int], given: tuple[Rows, int] | None = None
    ) -> None:
        self.refiner, self.image, self.size = refiner, image, size
        self.given, self.height = given or (Rows(0, image.shape[-2]), image.shape[-2])
        self.margin = getattr(refiner, 'reach', size[0])
        self._latest: tuple[Rows, Tensor] | None = None

    def refine(self, scores: Tensor, rows: Rows) -> Tensor:
        """(q, rows, W) -> (q, rows, W)."""
        if self._latest is None or self._latest[0] != rows:
            self._latest = None  # frees it
            image = upsample_rows(self.image[None], self.given, self.height, self.size, rows)[0]
            self._latest = rows, self.refiner.affinity(image)
        return self.refiner.refine(scores, self._latest[1])
