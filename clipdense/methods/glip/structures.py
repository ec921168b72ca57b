"""What the parts of GLIP hand to each other.

B: images, T: tokens, D: text width, M: boxes of an image, A: places of a level, (h, w): level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class TextFeatures(NamedTuple):
    """Texts as the text tower reads them, one for each image."""

    hidden: Tensor  # (B, T, D)  of the last layer
    embedded: Tensor  # (B, T, D)  the same with 0 in place of padding
    mask: Tensor  # (B, T) bool, False for padding


class HeadOutput(NamedTuple):
    """Of each level."""

    logits: list[Tensor]  # (B, A, T)  of the tokens
    deltas: list[Tensor]  # (B, 4, h, w)  boxes relative to anchors
    centerness: list[Tensor]  # (B, 1, h, w)  logits
    text: Tensor | None = None  # (B, T, D)  of the whole text, after the blocks
    levels: Sequence[Tensor] = ()  # (B, C, h, w)  after the blocks


class ReadPlaces(NamedTuple):
    """What texts read of images, computed once for any number of texts."""

    blocks: list[tuple[Tensor, Tensor]]  # of each block of the head, see ``fusion.Places``

    def row(self, index: Tensor) -> ReadPlaces:
        """Those of these images, (B',) of (B,)."""
        return ReadPlaces([(query[index], value[index]) for query, value in self.blocks])


class Targets(NamedTuple):
    """The boxes of an image."""

    boxes: Tensor  # (M, 4)  x2 and y2 are the last pixels inside
    positive: Tensor  # (M, T)  1 where a token belongs to the phrase of a box
