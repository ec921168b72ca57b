"""Images of any size for detectors of mmdet, without annotations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .transforms import PackDetection


def prepare(pixels: np.ndarray, transforms: Sequence[Any]) -> dict[str, Any]:
    """An RGB image (H, W, 3) uint8 -> ``inputs`` and ``data_samples``, after the transforms."""
    size = pixels.shape[:2]
    results: dict[str, Any] = {'img': pixels, 'ori_shape': size, 'img_shape': size}
    for transform in transforms:
        results = transform(results)
    return PackDetection()(results)


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
