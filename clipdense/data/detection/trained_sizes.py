"""The sizes of the images that a detector was trained on, and a warning where others are far from them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from clipdense.utils.errors import InputError
from clipdense.utils.wording import counted

_FAR = 2.0  # times longer than the longest training image, or shorter than the shortest
_WITHOUT_BOXES = {'question', 'description'}  # what samples have whose objects have no boxes
KEY = 'image_sides'  # in the config of a self-describing file


class TrainedSizes:
    """The longer sides of training images, in pixels after their resize.

    A detector finds objects of about the sizes in pixels that it was trained on.  A random crop does not
    change these, so that an image counts as if it had not been cropped.

    Args:
        sides: the shortest and the longest of them; None if they are not known.

    Raises:
        InputError: other values.
    """

    def __init__(self, sides: Sequence[int] | None = None) -> None:
        if sides is not None and not _is_range(sides):
            raise InputError(f'{KEY} must be the shortest and the longest side in pixels, got {sides!r:.60}')
        self.sides: tuple[int, int] | None = None if sides is None else (sides[0], sides[1])
        self._warned = False

    def note(self, samples: Sequence[Any]) -> None:
        """Count the images of a training batch, without those of ``data.detection.whole_images``."""
        found = [_side(one.metainfo) for one in samples if not _WITHOUT_BOXES & one.metainfo.keys()]
        if found:
            known = self.sides or (found[0], found[0])
            self.sides = (min(known[0], *found), max(known[1], *found))

    def entry(self) -> dict[str, Any]:
        """For the config of a self-describing file; empty if nothing is known."""
        return {} if self.sides is None else {KEY: self.sides}

    def check(self, meta: Mapping[str, Any]) -> None:
        """Warn, once, of an image that is far from all of the training.

        Args:
            meta: mmdet's sizes of the image after its transforms.

        Warns:
            UserWarning: its longer side is over twice that of the longest training image, or under half of
                the shortest.
        """
        if self._warned or self.sides is None:
            return
        side, (low, high) = _side(meta), self.sides
        if side * _FAR >= low and side <= high * _FAR:
            return
        self._warned = True
        trained, pixels = str(low) if low == high else f'{low} to {high}', counted(side, 'pixel')
        warnings.warn(
            f'an image has a longer side of {pixels} after its transforms, and the detector was trained '
            f'on {trained}: it may find nothing; resize with -o image_size={min(max(side, low), high)} (in '
            f"Python method_options={{'image_size': {min(max(side, low), high)}}})"
        )


def _side(meta: Mapping[str, Any]) -> int:
    """The longer side of an image after its resize and before a crop."""
    height, width = meta['ori_shape'][:2]
    across, down = meta.get('scale_factor', (1.0, 1.0))
    return max(1, round(max(height * down, width * across)))


def _is_range(sides: Any) -> bool:
    whole = isinstance(sides, list | tuple) and all(type(side) is int for side in sides)
    return whole and len(sides) == 2 and 1 <= sides[0] <= sides[1]
