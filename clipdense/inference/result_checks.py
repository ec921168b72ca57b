"""Validation of results, and helpers of their ``repr``."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

MAX_BYTES = 4 << 30  # of an array with a value for each class and pixel, or of embeddings of pixels
_SORTED = 4_000_000  # values that are sorted at a time
_SHOWN = 3  # number of classes in a ``repr``


def check_numbers(**arrays: object) -> None:
    """Refuse lists, tensors and arrays without numbers.

    Raises:
        InputError: naming the array.
    """
    for name, values in arrays.items():
        if not isinstance(values, np.ndarray):
            raise InputError(f'{name} must be a NumPy array, got {type(values).__name__}')
        if values.dtype.kind not in 'biuf':
            raise InputError(f'{name} must contain numbers, got {values.dtype}')


def check_finite(name: str, values: NDArray) -> None:
    """Refuse NaN and infinite values.

    Raises:
        InputError: some values are not finite.
    """
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise InputError(
            f'{name} must be finite, but {count} of {values.size} values are NaN or infinite: the weights '
            'are damaged, or half precision overflows (use float32)'
        )


def check_indices(name: str, indices: NDArray, vocabulary: Vocabulary) -> None:
    """Refuse values that are not class indices.

    Raises:
        InputError: not integers, or an index out of range.
    """
    if indices.dtype.kind not in 'iu':
        raise InputError(f'{name} must contain integer class indices, got {indices.dtype}')
    low, high = (int(indices.min()), int(indices.max())) if indices.size else (0, 0)
    if low < 0 or high >= len(vocabulary):
        wrong = low if low < 0 else high
        raise InputError(
            f'{name} contains class index {wrong}, but the vocabulary has {count_classes(len(vocabulary))}: '
            f'indices must be from 0 to {len(vocabulary) - 1}'
        )


def check_boxes(xyxy: NDArray) -> None:
    """(n, 4) x1, y1, x2, y2.

    Raises:
        InputError: values that are not finite, or a box with x1 > x2 or y1 > y2.
    """
    check_finite('xyxy', xyxy)
    if (xyxy[:, :2] > xyxy[:, 2:]).any():
        raise InputError('a box in xyxy has x1 > x2 or y1 > y2: pass x1, y1, x2, y2, not x, y, width, height')


def check_masks(masks: NDArray, count: int, image: Image.Image | None) -> None:
    """(count, H, W) bool, of the same size as the image, if given.

    Raises:
        InputError: another shape or type.
    """
    size = None if image is None else (image.height, image.width)
    if masks.ndim != 3 or len(masks) != count or (size is not None and masks.shape[1:] != size):
        expected = f'({count}, H, W)' if size is None else (count, *size)
        raise InputError(f'masks must have the shape {expected}, one for each box, got {masks.shape}')
    if masks.dtype != bool:
        raise InputError(f'masks must be bool, got {masks.dtype}: pass masks != 0')


def check_bytes(needed: int, what: str, todo: str) -> None:
    """Refuse arrays that are larger than ``MAX_BYTES``.

    Raises:
        InputError: with what to do.
    """
    if needed > MAX_BYTES:
        raise InputError(
            f'{what} take {needed / 1e9:.1f} GB, more than the limit of {MAX_BYTES / 1e9:.1f}: {todo}'
        )


def check_probabilities(classes: int, size: tuple[int, int]) -> None:
    """Refuse to keep probabilities (K, H, W) that are larger than ``MAX_BYTES``.

    Raises:
        InputError: with what to do.
    """
    height, width = size
    what = f'the probabilities of {count_classes(classes)} for {width} x {height} pixels'
    todo = 'ask fewer classes, resize the image, or leave out keep_probabilities'
    check_bytes(4 * classes * height * width, what, todo)


def best_classes(probabilities: NDArray, count: int) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
    """(K, H, W) -> class indices and probabilities of the best, (k, H, W) each; of equal ones the first.

    Raises:
        InputError: a count below 1.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(f'the number of classes must be a whole number of at least 1, got {count!r}')
    classes, height, width = probabilities.shape
    count = min(count, classes)
    indices = np.empty((count, height, width), np.int32)
    values = np.empty((count, height, width), probabilities.dtype)
    step = max(1, _SORTED // (classes * width))
    for top in range(0, height, step):
        rows = slice(top, top + step)
        order = np.argsort(-probabilities[:, rows], axis=0, kind='stable')[:count]
        indices[:, rows] = order
        values[:, rows] = np.take_along_axis(probabilities[:, rows], order, axis=0)
    return indices, values


def needed_image(*images: Image.Image | None) -> Image.Image:
    """The image to draw on: the first that is given.

    Raises:
        InputError: there is none, or it is not a Pillow image.
    """
    given = next((image for image in images if image is not None), None)
    if given is None:
        raise InputError('this result has no image: pass one, as in result.draw(image)')
    check_image(given)
    return given


def check_image(image: object) -> None:
    """Refuse an image of another type.

    Raises:
        InputError: no Pillow image.
    """
    if image is not None and not isinstance(image, Image.Image):
        kind = type(image).__name__
        raise InputError(
            f'the image must be a Pillow image, got {kind}: pass Image.open(path) or Image.fromarray(array)'
        )


def count_classes(count: int) -> str:
    """``'1 class'``, ``'2 classes'``."""
    return '1 class' if count == 1 else f'{count} classes'


def listed(fractions: Mapping[str, float]) -> str:
    """``'cat 70%, dog 20%'``, for the first few."""
    shown = [f'{name} {fraction:.0%}' for name, fraction in islice(fractions.items(), _SHOWN)]
    return ', '.join([*shown, '...'] if len(fractions) > _SHOWN else shown)
