"""Contents of boxes as images, and boxes moved at random.  R: boxes of an image."""

from __future__ import annotations

import random

from PIL import Image

from clipdense.data.classification.datasets import LabeledImages
from clipdense.data.labeled import BoxedImage, BoxedImages
from clipdense.utils.image_io import read_image

_SHIFT = 0.15  # of the width or height of a box, at most, by which each of its edges is moved


class BoxContents(LabeledImages):
    """The content of each box as an image.

    Args:
        part: the boxes; what lies outside the image is cut off.
    """

    def __init__(self, part: BoxedImages) -> None:
        super().__init__(part.class_names)
        self.rows = [
            (one.path, box, label)
            for one in part.images
            for box, label in zip(one.boxes, one.labels, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> tuple[Image.Image, int]:
        path, (left, top, right, bottom), label = self.rows[index]
        image = read_image(path)
        left, top = max(0, min(int(left), image.width - 1)), max(0, min(int(top), image.height - 1))
        right, bottom = max(left + 1, round(right)), max(top + 1, round(bottom))
        return image.crop((left, top, min(right, image.width), min(bottom, image.height))), label


def moved(part: BoxedImages, count: int, seed: int) -> BoxedImages:
    """``count`` copies of each box, whose edges are moved by up to 15 % of its width or height."""
    rng = random.Random(seed)
    images = []
    for path, boxes, labels in part.images:
        found = [_moved(box, rng) for box in boxes for _ in range(count)]
        images.append(BoxedImage(path, found, [label for label in labels for _ in range(count)]))
    return BoxedImages(images, part.class_names)


def _moved(box: list[float], rng: random.Random) -> list[float]:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    sides = (width, height, width, height)
    return [edge + rng.uniform(-_SHIFT, _SHIFT) * side for edge, side in zip(box, sides, strict=True)]
