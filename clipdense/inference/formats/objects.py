"""The objects of an image, as every format takes them.  (H, W): pixels of the image, n: objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipdense.inference.results import Detections, Segmentation
from clipdense.utils.errors import InputError


@dataclass(frozen=True)
class LabelOptions:
    """Which objects of a result become labels.

    Args:
        min_area: objects with fewer pixels are left out; of the box for detections without masks.
        min_score: objects with a lower score are left out; that of a region is the mean over its pixels.

    Raises:
        InputError: a negative area, or a score that is not from 0 to 1.
    """

    min_area: int = 1
    min_score: float = 0.0

    def __post_init__(self) -> None:
        if not self.min_area >= 0:
            raise InputError(f'min_area must be at least 0, got {self.min_area!r}')
        if not 0 <= self.min_score <= 1:
            raise InputError(f'min_score must be from 0 to 1, got {self.min_score!r}')


@dataclass(frozen=True)
class LabeledObject:
    """One object.

    Args:
        label: index into the class names of the vocabulary.
        box: x1, y1, x2, y2 in pixels, within the image.
        score: from 0 to 1.
        area: pixels of the mask, or of the box without one.
        crop: mask of the whole pixels of the box, if there is a mask; see ``mask``.
        corner: x and y of the crop's first pixel.
    """

    label: int
    box: tuple[float, float, float, float]
    score: float
    area: float
    crop: NDArray[np.bool_] | None = None
    corner: tuple[int, int] = (0, 0)

    def mask(self, size: tuple[int, int]) -> NDArray[np.bool_] | None:
        """(H, W), or None."""
        if self.crop is None:
            return None
        full = np.zeros(size, bool)
        (x, y), (height, width) = self.corner, self.crop.shape
        full[y : y + height, x : x + width] = self.crop
        return full


@dataclass(frozen=True)
class LabeledImage:
    """An image and its objects.

    Args:
        number: from 1, unique in the data set.
        source: the file.
        name: of its files in the data set, without ending.
        size: (H, W), as displayed.
        image: the image.
        objects: n objects.
        classes: (H, W) class of each pixel, of a segmentation.
    """

    number: int
    source: Path
    name: str
    size: tuple[int, int]
    image: Image.Image
    objects: list[LabeledObject] = field(default_factory=list)
    classes: NDArray[np.integer] | None = None


def to_objects(
    result: Any, source: Path, name: str, number: int, options: LabelOptions | None = None
) -> LabeledImage:
    """The objects of a result: detections, or the connected regions of a segmentation without the background.

    Raises:
        InputError: not a result, or one without its image.
    """
    options = options or LabelOptions()
    if not isinstance(result, Segmentation | Detections):
        raise InputError(f'a result must be a Segmentation or Detections, got {type(result).__name__}')
    if result.image is None:
        raise InputError(f'the result of {source} has no image: pass image=... to it')
    size = (result.image.height, result.image.width)
    found = _regions(result) if isinstance(result, Segmentation) else _detected(result, size)
    kept = [one for one in found if one.area >= options.min_area and one.score >= options.min_score]
    classes = result.mask if isinstance(result, Segmentation) else None
    return LabeledImage(number, source, name, size, result.image, kept, classes)


def _regions(result: Segmentation) -> Iterator[LabeledObject]:
    """Connected regions of each class, diagonal neighbors included."""
    import cv2

    name = result.vocabulary.marking_background().background
    background = None if name is None else result.vocabulary.index(name)
    for label in np.unique(result.mask).tolist():
        if label == background:
            continue
        chosen = (result.mask == label).astype(np.uint8)
        _, numbers, boxes, _ = cv2.connectedComponentsWithStats(chosen, connectivity=8)
        for number, (x, y, width, height, area) in enumerate(boxes.tolist()):
            if number == 0:  # what is not of the class
                continue
            window = (slice(y, y + height), slice(x, x + width))
            crop = numbers[window] == number
            score = float(result.scores[window][crop].mean(dtype=np.float64))
            box = (float(x), float(y), float(x + width), float(y + height))
            yield LabeledObject(label, box, _unit(score), area, crop, (x, y))


def _detected(result: Detections, size: tuple[int, int]) -> Iterator[LabeledObject]:
    """Detections, boxes clipped to the image; those outside of it, or with an empty mask, are left out."""
    height, width = size
    for index, corners in enumerate(result.xyxy.astype(float)):
        x1, x2 = corners[[0, 2]].clip(0, width).tolist()
        y1, y2 = corners[[1, 3]].clip(0, height).tolist()
        label, score = int(result.class_ids[index]), _unit(float(result.confidence[index]))
        if x2 <= x1 or y2 <= y1:
            continue
        if result.masks is None:
            yield LabeledObject(label, (x1, y1, x2, y2), score, (x2 - x1) * (y2 - y1))
            continue
        rows, columns = (np.flatnonzero(result.masks[index].any(axis)) for axis in (1, 0))
        if rows.size:
            top, left = int(rows[0]), int(columns[0])
            crop = result.masks[index][top : rows[-1] + 1, left : columns[-1] + 1]
            area = float(np.count_nonzero(crop))
            yield LabeledObject(label, (x1, y1, x2, y2), score, area, np.asarray(crop), (left, top))


def _unit(score: float) -> float:
    """A score that rounding may have left outside of 0 to 1."""
    return min(max(score, 0.0), 1.0)
