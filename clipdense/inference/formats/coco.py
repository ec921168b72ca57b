"""COCO: ``annotations.json`` and ``images/``; masks as run lengths, or as polygons."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from clipdense.inference.results import run_lengths, write_json
from clipdense.vocab.vocabulary import Vocabulary

from .objects import LabeledImage, LabeledObject
from .outlines import polygons
from .writer import Writer


class CocoRunLengths(Writer):
    """Masks as compressed run lengths: exact, with holes."""

    summary: ClassVar[str] = 'COCO, masks as run lengths'

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        super().__init__(folder, vocabulary)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, image: LabeledImage) -> None:
        """Write an image, and what is known of it alone."""
        name = self.copy_image(image, 'images')
        height, width = image.size
        self._images.append({'id': image.number, 'file_name': name, 'width': width, 'height': height})
        for one in image.objects:
            x1, y1, x2, y2 = (round(value, 3) for value in one.box)
            self._annotations.append(
                {
                    'id': len(self._annotations) + 1,
                    'image_id': image.number,
                    'category_id': self.numbers[one.label] + 1,
                    'bbox': [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)],
                    'area': round(one.area, 3),
                    'iscrowd': 0,
                    'score': round(one.score, 6),
                    'segmentation': self._mask(one, image.size),
                }
            )

    def _mask(self, one: LabeledObject, size: tuple[int, int]) -> Any:
        mask = one.mask(size)
        return [] if mask is None else run_lengths(mask)

    def finish(self) -> list[Path]:
        """Write ``annotations.json``, whose ids begin with 1."""
        path = self.folder / 'annotations.json'
        categories = [{'id': number, 'name': name} for number, name in enumerate(self.names, 1)]
        info = {'description': 'labels predicted by clipdense'}
        content = {'info': info, 'images': self._images, 'categories': categories}
        write_json(path, {**content, 'annotations': self._annotations})
        return [path]


class CocoPolygons(CocoRunLengths):
    """Masks as polygons along the edges of pixels; a hole is joined to its outline by a cut."""

    summary: ClassVar[str] = 'COCO, masks as polygons'

    def _mask(self, one: LabeledObject, size: tuple[int, int]) -> Any:
        parts = [] if one.crop is None else polygons(one.crop, one.corner)
        return [[value for point in ring for value in point] for ring in parts]
