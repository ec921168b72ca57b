"""Images of any size for detectors of mmdet, without annotations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from clipdense.utils.errors import InputError

from .transforms import PackDetection


def prepare(pixels: np.ndarray, transforms: Sequence[Any]) -> dict[str, Any]:
    """An RGB image (H, W, 3) uint8 -> ``inputs`` and ``data_samples``, after the transforms."""
    pixels = pixels if pixels.flags.writeable else pixels.copy()  # torch warns of arrays that are not
    size = pixels.shape[:2]
    results: dict[str, Any] = {'img': pixels, 'ori_shape': size, 'img_shape': size}
    for transform in transforms:
        results = transform(results)
    return PackDetection()(results)


def move_preprocessor(model: Any) -> None:
    """Put the data preprocessor of a detector on the device of its weights, with which it is not moved.

    Raises:
        InputError: weights that are not float32, which mmdet does not support.
    """
    parameter = next(model.parameters())
    if parameter.dtype != torch.float32:
        raise InputError(f'a detector runs in torch.float32 only, its weights are {parameter.dtype}')
    model.data_preprocessor.to(parameter.device)


def preprocess(model: Any, batch: dict[str, list[Any]]) -> dict[str, Any]:
    """A batch of images of one size -> ``inputs`` (B, 3, H, W), normalized, and ``data_samples``.

    Raises:
        InputError: as ``move_preprocessor``.
    """
    move_preprocessor(model)
    return model.data_preprocessor(batch, False)


def preprocess_image(model: Any, pixels: np.ndarray) -> dict[str, Any]:
    """``preprocess`` for an RGB image (H, W, 3) uint8, after the transforms of the model."""
    item = prepare(pixels, model.transforms)
    return preprocess(model, {key: [value] for key, value in item.items()})


def batches_of_one_size(
    items: Sequence[dict[str, Any]],
) -> Iterator[tuple[list[int], dict[str, list[Any]]]]:
    """Batches of images of the same size, since padding would change the results.

    Yields:
        The places of the images among ``items``, and the batch.
    """
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        by_size[tuple(item['inputs'].shape)].append(place)
    for places in by_size.values():
        yield places, {key: [items[place][key] for place in places] for key in ('inputs', 'data_samples')}


def in_batches(
    images: Sequence[Any],
    transforms: Sequence[Any],
    run: Callable[[list[int], dict[str, list[Any]]], Iterable[Any]],
) -> list[Any]:
    """The result of each image, from batches of one size.

    Args:
        images: RGB (H, W, 3) uint8, of any sizes.
        transforms: of each image.
        run: the places of the images of a batch, and the batch -> the result of each.
    """
    items = [prepare(np.asarray(image), transforms) for image in images]
    found: dict[int, Any] = {}
    for places, batch in batches_of_one_size(items):
        found.update(zip(places, run(places, batch), strict=True))
    return [found[place] for place in range(len(images))]
