"""What the losses of a batch are computed from.  B: images, A: anchors of all levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from .boxes import inclusive
from .prompts import positive_map
from .structures import HeadOutput, Targets
from .text import EncodedPrompts
from .training_prompts import TrainingText


class TrainingBatch(NamedTuple):
    """A batch after the forward pass."""

    levels: Sequence[Tensor]  # of the neck
    texts: Sequence[TrainingText]
    encoded: EncodedPrompts
    output: HeadOutput
    targets: Sequence[Targets]
    owner: Tensor  # (B, A)  the box of each anchor, see ``assignment.assign``
    samples: Sequence[DetDataSample]


def counted_tokens(texts: Sequence[TrainingText], encoded: EncodedPrompts) -> Tensor:
    """(B, T), False for padding and for texts of images whose objects have no boxes."""
    mask = encoded.features.mask
    return mask & torch.tensor([one.boxed for one in texts], device=mask.device)[:, None]


def targets_of(
    samples: Sequence[DetDataSample], texts: Sequence[TrainingText], encoded: EncodedPrompts
) -> list[Targets]:
    """The boxes of each image with the tokens of their phrases.

    A box is left out if its name did not fit into the text.
    """
    mask = encoded.features.mask
    found = []
    for sample, text, phrases in zip(samples, texts, encoded.phrases, strict=True):
        boxes = sample.gt_instances.bboxes.float().to(mask.device)
        kept = text.rows >= 0
        tokens = positive_map(phrases, mask.shape[1], device=mask.device)
        found.append(Targets(inclusive(boxes[kept]), tokens[text.rows[kept]]))
    return found
