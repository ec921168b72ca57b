"""From the levels of images and texts to detections.

A: anchors, T: tokens, n: candidates or detections, (h, w): level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from clipdense.tasks.detection import DetectionRules
from clipdense.vocab.vocabulary import Vocabulary

from .boxes import exclusive
from .class_text import EncodedChunk
from .head import GLIPHead
from .scores import CandidateRules, Candidates, candidates, suppress
from .structures import HeadOutput, TextFeatures


class Reading(NamedTuple):
    """Images and the texts that were read with them."""

    levels: Sequence[Tensor]  # (B, C, h, w) of each level
    metas: Sequence[Mapping[str, Any]]  # the sizes of each image
    texts: Sequence[Sequence[EncodedChunk]]  # of each image
    output: HeadOutput | None = None  # of all images, if each has one text
    rescale: bool = True  # whether detections are in pixels of the images


def search(
    head: GLIPHead,
    levels: Sequence[Tensor],
    metas: Sequence[Mapping[str, Any]],
    chunks: Sequence[EncodedChunk],
    rules: CandidateRules,
    turn: int = 0,
) -> tuple[list[Candidates], HeadOutput]:
    """The candidates of each image in a text of its own, and the output of the head.

    Args:
        head: where levels and texts meet.
        levels: (B, C, h, w) of each level.
        metas: the sizes of each image.
        chunks: the text of each image; one that all of them share is expanded only.
        rules: which anchors are taken.
        turn: number of the text among those of its image.
    """
    output = head(levels, _together(chunks))
    anchors = head.anchors(levels)
    found = []
    for image, (meta, chunk) in enumerate(zip(metas, chunks, strict=True)):
        size = (int(meta['img_shape'][0]), int(meta['img_shape'][1]))
        taken = candidates(*_of_image(output, image), anchors, chunk.positive, size, rules)
        names = torch.stack([torch.full_like(taken.class_ids, turn), taken.class_ids], dim=1)
        found.append(taken._replace(class_ids=chunk.class_of[taken.class_ids], names=names))
    return found, output


def distinct(inputs: Tensor, metas: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    """The images of a batch (B, 3, H, W) without repetitions, and the place of each among these.

    An image with several captions occurs once for each.
    """
    first: dict[Any, int] = {}
    images: list[int] = []
    place = []
    for index, meta in enumerate(metas):
        same = first.setdefault(meta.get('img_path', index), index)
        if same == index or not torch.equal(inputs[index], inputs[same]):
            place.append(len(images))
            images.append(index)
        else:
            place.append(place[same])
    return images, place


def no_class_twice(chunks: Sequence[EncodedChunk]) -> bool:
    """Whether the names of each class are in one text."""
    classes = [index for chunk in chunks for index in set(chunk.class_of.tolist())]
    return len(classes) == len(set(classes))


def suppress_early(
    found: Sequence[Candidates], rules: DetectionRules, vocabulary: Vocabulary
) -> list[Candidates]:
    """The candidates of an image that the suppression within their classes keeps."""
    limits = rules.iou_threshold, rules.thresholds(vocabulary)
    return [suppress(_joined(found), *limits, max_detections=rules.max_detections)]


def best_of(
    found: Sequence[Sequence[Candidates]], vocabularies: Sequence[Vocabulary], rules: DetectionRules
) -> list[Candidates]:
    """What is detected in each image, from its candidates in all texts."""
    best = []
    for one, vocabulary in zip(found, vocabularies, strict=True):
        limits = rules.iou_threshold, rules.thresholds(vocabulary), rules.class_agnostic
        best.append(suppress(_joined(one), *limits, rules.max_detections))
    return best


def instances(found: Candidates, meta: Mapping[str, Any], rescale: bool = True) -> InstanceData:
    """Candidates as detections, x2 and y2 as borders.

    Args:
        found: in pixels of the network's input.
        meta: the sizes of the image.
        rescale: whether boxes become pixels of the image.
    """
    boxes = exclusive(found.boxes)
    if rescale:
        width, height = meta.get('scale_factor', (1.0, 1.0))
        boxes = boxes / boxes.new_tensor([width, height, width, height])
    return InstanceData(bboxes=boxes, scores=found.scores, labels=found.class_ids)


def _together(chunks: Sequence[EncodedChunk]) -> TextFeatures:
    """The texts of a batch."""
    if all(chunk is chunks[0] for chunk in chunks):
        return chunks[0].features_for(len(chunks))
    return TextFeatures(*map(torch.cat, zip(*(chunk.features for chunk in chunks), strict=True)))


def _joined(found: Sequence[Candidates]) -> Candidates:
    return Candidates(*map(torch.cat, zip(*found, strict=True)))


def _of_image(output: HeadOutput, image: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    logits, deltas, centerness = ([level[image].float() for level in part] for part in output[:3])
    return logits, deltas, centerness
