"""Embed datasets without gradients.  B: images, D: joint space."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from clipdense.clip.model import CLIP
from clipdense.data.batches import collate
from clipdense.data.transforms import CenterCrop
from clipdense.utils.errors import InputError
from clipdense.utils.progress import track


def embedded_batches(
    clip: CLIP,
    dataset: Any,
    batch_size: int,
    num_workers: int,
    title: str,
    encode: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Yield unit embeddings (B, D) of a dataset's images, with the other entries of each batch.

    Images are preprocessed as recorded with the weights, unless the dataset has a transform.

    Args:
        clip: in evaluation mode.
        dataset: items with ``images`` (3, H, W) uint8.
        batch_size: B.
        num_workers: processes that read images.
        title: of the progress bar.
        encode: normalized images (B, 3, H, W) -> what is yielded in place of unit embeddings.

    Raises:
        InputError: embeddings that are not finite.
    """
    crop = None if getattr(dataset, 'transform', None) is not None else CenterCrop.of(clip.preprocess)
    if crop is not None and hasattr(dataset, 'transform'):
        dataset, crop = copy.copy(dataset), None  # cropped in the workers; the dataset is unchanged
        dataset.transform = CenterCrop.of(clip.preprocess)
    loader = DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=collate)
    size, parameter = clip.preprocess.image_size, next(clip.parameters())
    total = None if isinstance(dataset, IterableDataset) else len(loader)
    for batch in track((batch for batch in loader), title, total):  # a stream may have no length
        images = batch.pop('images')
        if crop is not None and (isinstance(images, list) or images.shape[-2:] != (size, size)):
            images = torch.stack([crop(image) for image in images])
        images = clip.preprocess.normalize(images.to(parameter.device)).to(parameter.dtype)
        embeddings = clip.encode_image(images, normalize=True) if encode is None else encode(images)
        check_finite(embeddings, f'{title}: the embeddings of the images')
        yield embeddings, batch


def readable_batches(
    model: Any, dataset: Any, batch_size: int, num_workers: int, title: str
) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield the images of a dataset that can be read (B, 3, S, S), normalized, and their indices.

    Args:
        model, dataset, batch_size, num_workers, title: as in ``embedded_batches``.
    """
    data = dataset.unreplaced() if hasattr(dataset, 'unreplaced') else dataset
    first = 0
    for images, batch in embedded_batches(model, data, batch_size, num_workers, title, lambda some: some):
        places = batch['index'].tolist() if 'index' in batch else list(range(first, first + len(images)))
        first += len(images)
        kept = [row for row, place in enumerate(places) if place >= 0]
        if kept:
            yield images[kept], [places[row] for row in kept]


def check_finite(embeddings: Tensor, what: str) -> None:
    """Refuse embeddings with NaN or infinite values, which no class and no caption would match.

    Raises:
        InputError: some are not finite.
    """
    bad = int((~embeddings.isfinite().all(1)).sum())
    if bad:
        raise InputError(
            f'{what} are not finite ({bad} of {len(embeddings)} in a batch); '
            'the weights are damaged, or the precision is too low'
        )
