"""Masks of boxes from the fused features, selected by the words of their phrases (GLIPv2).

B: images, R: boxes, C: channels, T: tokens, D: text width, S: side of a mask.

Zhang et al., GLIPv2 (arXiv 2206.05836), section 3.1; He et al., Mask R-CNN (arXiv 1703.06870).

Source: microsoft/GLIP modeling/roi_heads/mask_head ``VLMaskRCNNC4Predictor``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from clipdense.layers.precision import at_least_fp32
from clipdense.utils.errors import InputError

_SAMPLES = 2  # of a bin of the crop, in each direction


class WordMasks(nn.Module):
    """A box and the tokens of its phrase -> a mask.

    The features of a box are cropped from the fused levels; the mask is their product with the mean feature
    of the tokens of the phrase after fusion, so that the same box has other masks for other words.

    Args:
        channels: C.
        text_width: D.
        strides: pixels between two places, of each level.
        width: channels of the convolutions; C by default.
        depth: convolutions before the mask is enlarged.
        size: side of the crop in places; masks have twice the side.
        max_regions: boxes of an image that are trained on, at most; drawn at random.
        log_scale: first logarithm of what the products are divided by, see ``HeadSize``.

    Raises:
        InputError: a number that is not at least 1 (``depth``: 0).
    """

    def __init__(
        self,
        channels: int,
        text_width: int,
        strides: Sequence[int],
        width: int | None = None,
        depth: int = 4,
        size: int = 14,
        max_regions: int = 64,
        log_scale: float = 0.0,
    ) -> None:
        super().__init__()
        width = channels if width is None else width
        least = {'width': (width, 1), 'depth': (depth, 0), 'size': (size, 1), 'max_regions': (max_regions, 1)}
        for name, (value, low) in least.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f'{name} of the masks must be a whole number, at least {low}, got {value!r}')
        self.strides, self.size, self.max_regions = tuple(strides), size, max_regions
        self.convs: Any = nn.ModuleList(
            nn.Conv2d(channels if place == 0 else width, width, 3, padding=1) for place in range(depth)
        )
        self.enlarge = nn.ConvTranspose2d(width if depth else channels, width, 2, stride=2)
        self.words = nn.Linear(text_width, width)
        self.log_scale = nn.Parameter(torch.full((1,), float(log_scale)))
        self.text_bias = nn.Parameter(torch.zeros(text_width))
        for layer in (*self.convs, self.enlarge):
            nn.init.kaiming_normal_(layer.weight, mode='fan_out', nonlinearity='relu')
            nn.init.zeros_(layer.bias)

    @property
    def side(self) -> int:
        """S."""
        return 2 * self.size

    def forward(
        self, levels: Sequence[Tensor], text: Tensor, boxes: Sequence[Tensor], tokens: Sequence[Tensor]
    ) -> Tensor:
        """Logits of the masks of all boxes -> (R, S, S).

        Args:
            levels: (B, C, h, w) of each level, after the blocks of the head.
            text: (B, T, D), after the blocks of the head.
            boxes: of each image, x1, y1, x2, y2 as borders, in pixels of the network's input.
            tokens: of each image, (boxes, T), 1 where a token belongs to the phrase of a box.
        """
        x = self.crop(levels, boxes)  # (R, C, size, size)
        for layer in self.convs:
            x = layer(x).relu()
        x = self.enlarge(x).relu()  # (R, width, S, S)
        queries, bias = self._queries(text, tokens)  # (R, width), (R,)
        return at_least_fp32(torch.einsum('rcyx,rc->ryx', x, queries) + bias[:, None, None])

    def crop(self, levels: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """The features of boxes, each from the level on which it is about ``size`` places wide."""
        rows = [torch.cat([torch.full_like(one[:, :1], i), one], dim=1) for i, one in enumerate(boxes)]
        rois = torch.cat(rows).to(at_least_fp32(levels[0]))  # (R, 5)
        places = (rois[:, 3:] - rois[:, 1:3]).prod(dim=1).clamp(min=1e-6).sqrt() / self.size / self.strides[0]
        level_of = places.log2().floor().clamp(0, len(levels) - 1)  # (R,)
        found = rois.new_zeros(len(rois), levels[0].shape[1], self.size, self.size)
        for number, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            own = (level_of == number).nonzero()[:, 0]
            crops = roi_align(at_least_fp32(level), rois[own], self.size, 1 / stride, _SAMPLES, aligned=True)
            found = found.index_put((own,), crops)
        return found

    def _queries(self, text: Tensor, tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The mean over the tokens of a phrase of what is multiplied with places, and of what is added."""
        words = F.normalize(text, dim=-1)  # (B, T, D)
        features = self.words(words / 2) / self.log_scale.exp()  # (B, T, width)
        bias = words @ self.text_bias  # (B, T)
        shares = [one / one.sum(dim=1, keepdim=True) for one in tokens]
        queries = [share @ of_image for share, of_image in zip(shares, features, strict=True)]
        return torch.cat(queries), torch.cat([share @ row for share, row in zip(shares, bias, strict=True)])


def mask_targets(masks: Tensor, owner: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The masks of objects inside of boxes -> (R, S, S), 1 on the object.

    Args:
        masks: (M, H, W) of the objects.
        owner: (R,) the object of each box.
        boxes: (R, 4) x1, y1, x2, y2 as borders.
        side: S.
    """
    rois = torch.cat([owner.to(boxes)[:, None], boxes], dim=1)
    crops = roi_align(masks[:, None].to(boxes), rois, side, aligned=True)
    return (crops[:, 0] >= 0.5).to(boxes)


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The binary cross-entropy, averaged over the places of all masks (R, S, S); 0 without masks."""
    total = F.binary_cross_entropy_with_logits(logits, targets, reduction='sum')
    return total / max(1, targets.numel())
