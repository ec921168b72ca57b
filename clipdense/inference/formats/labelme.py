"""LabelMe: a JSON file beside each image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from clipdense.inference.results import write_json
from clipdense.utils.files import atomic_write

from .objects import LabeledImage, LabeledObject
from .outlines import polygons
from .writer import Writer


class LabelMe(Writer):
    """Polygons, or rectangles of detections without masks; the parts of an object share a ``group_id``."""

    summary: ClassVar[str] = 'LabelMe, a JSON file beside each image'

    def add(self, image: LabeledImage) -> None:
        """Write an image, and what is known of it alone."""
        name = self.copy_image(image, '')
        shapes = [shape for number, one in enumerate(image.objects, 1) for shape in self._shapes(one, number)]
        content: dict[str, Any] = {
            'version': '5.4.1',
            'flags': {},
            'shapes': shapes,
            'imagePath': name,
            'imageData': None,
            'imageHeight': image.size[0],
            'imageWidth': image.size[1],
        }
        write_json(self.folder / f'{image.name}.json', content)

    def _shapes(self, one: LabeledObject, number: int) -> list[dict[str, Any]]:
        x1, y1, x2, y2 = one.box
        masked = one.crop is not None
        rings: list[Any] = [[(x1, y1), (x2, y2)]]
        if one.crop is not None:
            rings = polygons(one.crop, one.corner)
        return [
            {
                'label': self.vocabulary.class_names[one.label],
                'points': [[float(x), float(y)] for x, y in ring],
                'group_id': number if len(rings) > 1 else None,
                'description': f'score {one.score:.4f}',
                'shape_type': 'polygon' if masked else 'rectangle',
                'flags': {},
            }
            for ring in rings
        ]

    def finish(self) -> list[Path]:
        """Write ``labels.txt``, which ``labelme --labels`` takes."""
        path = self.folder / 'labels.txt'
        with atomic_write(path, 'w') as file:
            file.write(''.join(f'{name}\n' for name in self.names))
        return [path]
