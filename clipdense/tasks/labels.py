"""Checks of the images and masks that segmenters are trained with.  B: images, (H, W): pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipdense.structures import SegmentationSample
from clipdense.utils.errors import InputError


def training_batch(
    images: Tensor | Sequence[Tensor],
    samples: Sequence[SegmentationSample],
    num_classes: int,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) and checked labels (B, H, W) int64, on the images' device.

    Raises:
        InputError: images of different sizes, or as ``training_masks``.
    """
    if not isinstance(images, Tensor):
        raise InputError(
            'the images of a training batch have different sizes: crop them with SegmentationCrops'
        )
    return images, training_masks(samples, num_classes, ignore_index).to(images.device)


def training_masks(samples: Sequence[SegmentationSample], num_classes: int, ignore_index: int) -> Tensor:
    """(B, H, W) int64 labels of a batch.

    Raises:
        InputError: a sample without a mask, masks of different sizes, or labels that are not classes.
    """
    masks = []
    for sample in samples:
        if sample.mask is None:
            raise InputError(
                f'{sample.image_path or "an image"} has no mask: use a dataset with masks for training'
            )
        check_labels(sample.mask, num_classes, ignore_index, sample.image_path)
        masks.append(sample.mask)
    if len({mask.shape for mask in masks}) > 1:
        sizes = ', '.join(sorted({f'{mask.shape[1]} x {mask.shape[0]}' for mask in masks}))
        raise InputError(f'the masks of a training batch have different sizes ({sizes}): crop them')
    return torch.stack(masks)


def check_labels(labels: Tensor, num_classes: int, ignore_index: int, source: str) -> None:
    """Refuse labels that are not class indices.

    Raises:
        InputError: naming the image, the labels and the valid range.
    """
    wrong = (labels != ignore_index) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        found = labels[wrong].unique().tolist()[:10]
        raise InputError(
            f'the mask of {source or "an image"} has labels {found}, which are not classes: labels must be '
            f'from 0 to {num_classes - 1}, or {ignore_index} (ignored)'
        )
