"""Masks of objects in COCO's layouts: polygons, and run lengths as numbers or as text.

pycocotools does not check run lengths: junk makes it hang, fill the memory or write beyond an array.  Here
they are checked before it sees them.  (H, W): pixels of the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipdense.utils.errors import InputError

_POLYGON = 6  # numbers of the smallest polygon
_FAR = 4  # sides of the image; polygons further away are refused, because their outline would fill the memory
_LONGEST_RUN = 7  # characters of a run length in compressed text, five bits each
_OFFSET = 48  # of the characters
_MORE, _SIGN, _BITS = 0x20, 0x10, 0x1F


def has_mask(annotation: Mapping[str, Any]) -> bool:
    """Whether there is a mask; an empty list is none."""
    segmentation = annotation.get('segmentation')
    return not (segmentation is None or (isinstance(segmentation, (list, str)) and not segmentation))


def check_mask(segmentation: Any, where: str, size: tuple[int, int]) -> None:
    """Check polygons or run lengths of an image.

    Args:
        segmentation: in one of COCO's layouts.
        where: start of messages.
        size: (H, W) of the image.

    Raises:
        InputError: another layout; run lengths of another size, or that are negative or do not add up to
            H x W; polygons with less than three points, values that are not finite, or far outside.
    """
    if isinstance(segmentation, list):
        _check_polygons(segmentation, where, size)
    elif isinstance(segmentation, Mapping) and isinstance(segmentation.get('counts'), (str, bytes, list)):
        _check_size(segmentation.get('size'), where, size)
        counts = segmentation['counts']
        if isinstance(counts, list):
            runs = _integers(counts, where)
            _check_runs(runs, np.zeros(min(1, runs.size), np.int64), [where], np.array([size]))
        else:
            check_texts([counts], [where], [size])
    else:
        raise InputError(f'{where}: segmentation must be polygons or run lengths, got {segmentation!r:.60}')


def check_texts(
    counts: Sequence[str | bytes], where: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> None:
    """Check many compressed run lengths at once, which is far faster than one by one.

    Args:
        counts: text of each mask.
        where: start of a message about each.
        sizes: (H, W) of each.

    Raises:
        InputError: as ``check_mask``.
    """
    runs, first = _decoded(counts, where)
    _check_runs(runs, first, where, np.array(sizes))


def to_run_lengths(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """A checked mask in any layout as compressed run lengths, whose ``counts`` are text."""
    from pycocotools import mask as coco_mask

    height, width = size
    if isinstance(segmentation, list):
        coded = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation['counts'], list):
        coded = coco_mask.frPyObjects(dict(segmentation), height, width)
    else:
        coded = segmentation
    counts = coded['counts']
    return {'size': [height, width], 'counts': counts if isinstance(counts, str) else counts.decode('ascii')}


def to_pixels(segmentation: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A checked mask in any layout as (H, W), 1 on the object."""
    runs, _ = _decoded(
        [to_run_lengths(segmentation, size)['counts']], ['a mask']
    )  # down the columns, 0 first
    values = np.repeat((np.arange(len(runs)) % 2).astype(np.uint8), runs)
    return np.ascontiguousarray(values.reshape(size[::-1]).T)


def mask_area(segmentation: Any, size: tuple[int, int]) -> float:
    """Number of pixels of a checked mask in any layout."""
    from pycocotools import mask as coco_mask

    return float(coco_mask.area(to_run_lengths(segmentation, size)))


def _check_size(given: Any, where: str, size: tuple[int, int]) -> None:
    whole = isinstance(given, (list, tuple)) and all(isinstance(side, Integral) for side in given)
    if not whole or tuple(given) != size:
        shown = tuple(given) if whole else given
        hint = '; the height comes first' if shown == size[::-1] else '; resize the mask to its image'
        raise InputError(f'{where}: run lengths have size {shown!r:.40}, expected {size} (H, W){hint}')


def _check_polygons(polygons: list, where: str, size: tuple[int, int]) -> None:
    if not all(isinstance(polygon, list) for polygon in polygons):
        raise InputError(
            f'{where}: a mask must be a list of polygons, each a list x1, y1, x2, y2, ...; write one polygon '
            'as [[x1, y1, ...]]'
        )
    limit = _FAR * max(size)
    for polygon in polygons:
        if len(polygon) < _POLYGON or len(polygon) % 2:
            raise InputError(
                f'{where}: a polygon needs at least three points and an even number of values, '
                f'got {len(polygon)} values'
            )
        try:
            finite = all(map(math.isfinite, polygon))
        except (TypeError, OverflowError):
            finite = False
        if not finite:
            raise InputError(f'{where}: a polygon contains a value that is not a finite number')
        if max(polygon) > limit or min(polygon) < -limit:
            raise InputError(f'{where}: a polygon is far outside of its image of {size} (H, W) pixels')


def _integers(counts: list, where: str) -> NDArray[np.int64]:
    if not all(type(count) is int or isinstance(count, np.integer) for count in counts):
        raise InputError(f'{where}: the run lengths of its mask must be integers')
    try:
        return np.array(counts, np.int64)
    except OverflowError as error:
        raise InputError(f'{where}: a run length of its mask is too large') from error


def _check_runs(
    runs: NDArray[np.int64], first: NDArray[np.int64], where: Sequence[str], sizes: NDArray[np.int64]
) -> None:
    """Check the run lengths of masks, of which each begins at ``first``."""
    pixels = sizes.prod(axis=1)
    lowest, highest, total = np.zeros((3, len(where)), np.int64)  # of a mask without run lengths
    if runs.size:
        lowest, highest, total = (one.reduceat(runs, first) for one in (np.minimum, np.maximum, np.add))
    wrong = np.flatnonzero((lowest < 0) | (highest > pixels) | (total != pixels))
    if wrong.size:
        at = int(wrong[0])
        if lowest[at] < 0:
            raise InputError(f'{where[at]}: a run length of its mask is negative')
        raise InputError(
            f'{where[at]}: the run lengths of its mask do not add up to the {sizes[at][0]} x {sizes[at][1]} '
            '(H x W) pixels of the image'
        )


def _decoded(
    counts: Sequence[str | bytes], where: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Run lengths of compressed texts one after the other, and the place of the first one of each.

    Each number is written in groups of five bits, the lowest first, as the difference to the one before the
    last; the first three stand for themselves.
    """
    raw = [text if isinstance(text, bytes) else text.encode('ascii', 'replace') for text in counts]
    sizes = np.array([len(text) for text in raw])
    values = np.frombuffer(b''.join(raw), np.uint8).astype(np.int64) - _OFFSET
    last = sizes.cumsum() - 1  # character of each text
    odd = (values < 0) | (values >= 2 * _MORE)
    if not sizes.all() or odd.any() or (values[last] & _MORE).any():
        damaged = sizes == 0
        damaged[np.searchsorted(last, np.flatnonzero(odd))] = True
        damaged[sizes > 0] |= (values[last[sizes > 0]] & _MORE) > 0
        at = int(np.flatnonzero(damaged)[0])
        raise InputError(f'{where[at]}: the compressed run lengths of its mask are damaged')
    ends = np.flatnonzero(~values & _MORE)  # the last character of each number
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    first = np.concatenate([[0], np.searchsorted(ends, last)[:-1] + 1])  # number of each text
    if lengths.max() > _LONGEST_RUN:
        at = int(np.searchsorted(last, ends[lengths > _LONGEST_RUN][0]))
        raise InputError(f'{where[at]}: a run length of its mask is too large')
    shifts = 5 * (np.arange(values.size) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((values & _BITS) << shifts, starts)
    numbers -= np.where(values[ends] & _SIGN, np.int64(1) << (5 * lengths), 0)
    return _summed(numbers, first), first


def _summed(numbers: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each number added to the one before the last, from the fourth number of each text on."""
    amounts = np.diff([*first, numbers.size])
    place = np.arange(numbers.size) - np.repeat(first, amounts)  # in its text
    runs = numbers.copy()
    for chosen in (place % 2 == 1, (place % 2 == 0) & (place > 0)):
        total = np.where(chosen, numbers, 0).cumsum()
        before = np.repeat(total[first] - np.where(chosen[first], numbers[first], 0), amounts)
        runs[chosen] = (total - before)[chosen]
    return runs
