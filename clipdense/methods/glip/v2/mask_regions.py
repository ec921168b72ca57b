"""The boxes that get masks: those of objects in training, detections afterwards.

M: objects of an image, R: boxes, T: tokens, S: side of a mask, (H, W): pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from clipdense.data.detection.masks import masks_fit, paste

from ..assignment import BACKGROUND
from ..boxes import decode, exclusive, pairwise_iou
from ..head import GLIPHead
from ..inference import Reading
from ..scores import Candidates
from ..training import TrainingBatch
from .word_masks import WordMasks, mask_targets

_LEAST_IOU = 0.5  # of a predicted box and its object


class MaskRegions(NamedTuple):
    """What masks are learned from."""

    boxes: list[Tensor]  # of each image (R, 4), x1, y1, x2, y2 as borders
    tokens: list[Tensor]  # of each image (R, T), 1 for those of the phrase of a box
    targets: Tensor  # (R, S, S) of all images


def training_regions(
    batch: TrainingBatch, anchors: Sequence[Tensor], side: int, max_regions: int
) -> MaskRegions:
    """Boxes of objects, and predicted boxes that overlap their object with an IoU of at least 0.5.

    Images without masks have none.

    Args:
        batch: after the forward pass.
        anchors: of each level, (A_l, 4).
        side: S.
        max_regions: boxes of an image, at most.
    """
    every = torch.cat(list(anchors))
    deltas = torch.cat([level.detach().float().flatten(2).mT for level in batch.output.deltas], dim=1)
    boxes, tokens, targets = [], [], []
    for image, sample in enumerate(batch.samples):
        truth, owner = batch.targets[image], batch.owner[image]
        masks = sample.gt_instances.get('masks')
        if masks is None:
            boxes.append(every[:0])
            tokens.append(truth.positive[:0])
            continue
        hit = owner != BACKGROUND
        found = torch.cat([truth.boxes, decode(deltas[image, hit], every[hit])])
        objects = torch.cat([torch.arange(len(truth.boxes), device=owner.device), owner[hit]])
        iou = pairwise_iou(found, truth.boxes).gather(1, objects[:, None])[:, 0]
        chosen = _shuffled(iou >= _LEAST_IOU, first=len(truth.boxes))[:max_regions]
        boxes.append(exclusive(found[chosen]))
        tokens.append(truth.positive[objects[chosen]])
        known = masks.to_tensor(torch.uint8, owner.device)[batch.texts[image].rows.to(owner.device) >= 0]
        targets.append(mask_targets(known, objects[chosen], boxes[-1], side))
    return MaskRegions(boxes, tokens, torch.cat([every.new_zeros(0, side, side), *targets]))


def with_masks(
    found: Sequence[InstanceData],
    best: Sequence[Candidates],
    reading: Reading,
    head: GLIPHead,
    masks: WordMasks,
) -> list[InstanceData]:
    """Detections with ``masks`` (n, H, W) of the size of the image; without, if they are too large.

    Args:
        found: the detections.
        best: the same in pixels of the network's input, with the names that they were found by.
        reading: images and texts; each text of an image with detections is read once more by the head,
            unless each image has one.
        head: of the detector.
        masks: its masks.
    """
    key = 'ori_shape' if reading.rescale else 'img_shape'
    sizes = [(int(meta[key][0]), int(meta[key][1])) for meta in reading.metas]
    if not masks_fit([len(one) for one in found], sizes):
        return list(found)
    for image, (one, candidates) in enumerate(zip(found, best, strict=True)):
        probabilities = one.bboxes.new_zeros(len(one), masks.side, masks.side)
        for turn in candidates.names[:, 0].unique().tolist():
            own = (candidates.names[:, 0] == turn).nonzero()[:, 0]
            tokens = reading.texts[image][turn].positive[candidates.names[own, 1]]
            levels, text = _fused(reading, image, turn, head)
            logits = masks(levels, text, [exclusive(candidates.boxes[own])], [tokens])
            probabilities[own] = logits.sigmoid().to(probabilities)
        one.masks = paste(probabilities, one.bboxes, sizes[image])
    return list(found)


def _fused(reading: Reading, image: int, turn: int, head: GLIPHead) -> tuple[list[Tensor], Tensor]:
    """Levels and text of an image after the blocks of the head."""
    part = slice(image, image + 1)
    if reading.output is not None:
        output = reading.output
        levels, text = [level[part] for level in output.levels], output.text
        assert text is not None
        return levels, text[part]
    output = head([level[part] for level in reading.levels], reading.texts[image][turn].features)
    assert output.text is not None
    return list(output.levels), output.text


def _shuffled(kept: Tensor, first: int) -> Tensor:
    """Places that are kept, in random order, but those of the first rows before the others."""
    parts = (kept[:first].nonzero()[:, 0], kept[first:].nonzero()[:, 0] + first)
    return torch.cat([one[torch.randperm(len(one)).to(one.device)] for one in parts])
