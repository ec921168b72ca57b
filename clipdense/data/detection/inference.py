"""Images of any size for detectors of mmdet, without annotations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from clipdense.utils.errors import InputError

from .transforms import PackDetection, Resize

_LARGEST = 10_000  # pixels of a side that an image is resized to


def test_transforms(cfg: Mapping[str, Any]) -> list[Any]:
    """The transforms of test images in a training config."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    return list(dataset.get('transforms') or ())


def checked_image_size(options: Mapping[str, Any]) -> int | None:
    """The option ``image_size`` of a detector, see ``prepare``.

    Raises:
        InputError: it is not a number of pixels.
    """
    size = options.get('image_size')
    if size is not None and (type(size) is not int or not 1 <= size <= _LARGEST):
        raise InputError(f'image_size must be a number of pixels, 1 to {_LARGEST}, got {size!r:.60}')
    return size


def prepare(model: Any, pixels: np.ndarray, image_size: int | None = None) -> dict[str, Any]:
    """An RGB image (H, W, 3) uint8 -> ``inputs`` and ``data_samples``.

    Args:
        model: with ``transforms``, and ``trained_sizes``, which warn of other sizes.
        pixels: the image.
        image_size: its longer side after a resize, in place of the transforms of the model.
    """
    pixels = pixels if pixels.flags.writeable else pixels.copy()  # torch warns of arrays that are not
    size = pixels.shape[:2]
    results: dict[str, Any] = {'img': pixels, 'ori_shape': size, 'img_shape': size}
    transforms = model.transforms
    if image_size is not None:
        transforms = [Resize(scale=(image_size, image_size), keep_ratio=True)]
    for transform in transforms:
        results = transform(results)
    item = PackDetection()(results)
    model.trained_sizes.check(item['data_samples'].metainfo)
    return item


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


def preprocess_image(model: Any, pixels: np.ndarray, image_size: int | None = None) -> dict[str, Any]:
    """``preprocess`` for an image as ``prepare`` takes it."""
    item = prepare(model, pixels, image_size)
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
    model: Any,
    images: Sequence[Any],
    run: Callable[[list[int], dict[str, list[Any]]], Iterable[Any]],
    image_size: int | None = None,
) -> list[Any]:
    """The result of each image, from batches of one size.

    Args:
        images: RGB (H, W, 3) uint8, of any sizes.
        run: the places of the images of a batch, and the batch -> the result of each.
        model, image_size: see ``prepare``.
    """
    items = [prepare(model, np.asarray(image), image_size) for image in images]
    found: dict[int, Any] = {}
    for places, batch in batches_of_one_size(items):
        found.update(zip(places, run(places, batch), strict=True))
    return [found[place] for place in range(len(images))]
