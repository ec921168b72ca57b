"""YOLO (ultralytics): ``data.yaml``, ``images/train`` and ``labels/train``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import yaml

from clipdense.utils.files import atomic_write

from .objects import LabeledImage, LabeledObject
from .outlines import polygon
from .writer import Writer


class YoloBoxes(Writer):
    """A line for each object: class, center, width and height as fractions of the image."""

    summary: ClassVar[str] = 'YOLO detection'

    def add(self, image: LabeledImage) -> None:
        """Write an image, and what is known of it alone."""
        self.copy_image(image, 'images/train')
        height, width = image.size
        lines = [
            ' '.join([str(self.numbers[one.label]), *_fractions(self._values(one), (width, height))])
            for one in image.objects
        ]
        with atomic_write(self.folder / 'labels/train' / f'{image.name}.txt', 'w') as file:
            file.write(''.join(f'{line}\n' for line in lines))

    def _values(self, one: LabeledObject) -> Sequence[float]:
        """x and y in turn, in pixels."""
        x1, y1, x2, y2 = one.box
        return ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)

    def finish(self) -> list[Path]:
        """Write ``data.yaml``; ``val`` is the same folder until you divide the images."""
        path = self.folder / 'data.yaml'
        content = {'train': 'images/train', 'val': 'images/train', 'names': dict(enumerate(self.names))}
        with atomic_write(path, 'w') as file:
            yaml.safe_dump(content, file, allow_unicode=True, sort_keys=False)
        return [path]


class YoloPolygons(YoloBoxes):
    """A line for each object: class, and one polygon; holes and parts are joined to it by cuts."""

    summary: ClassVar[str] = 'YOLO segmentation'
    needs_masks: ClassVar[bool] = True

    def _values(self, one: LabeledObject) -> Sequence[float]:
        assert one.crop is not None
        return [float(value) for point in polygon(one.crop, one.corner) for value in point]


def _fractions(values: Sequence[float], size: tuple[int, int]) -> list[str]:
    return [f'{value / size[at % 2]:.8g}' for at, value in enumerate(values)]
