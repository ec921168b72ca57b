"""Results of many images as one data set: COCO, YOLO, PASCAL VOC, LabelMe, Label Studio, a table.

``FORMATS`` is the table of them: a format is one entry, and one ``Writer``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from clipdense.inference.results import Detections
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.image_files import output_stems
from clipdense.vocab.vocabulary import Vocabulary

from .coco import CocoPolygons, CocoRunLengths
from .labelme import LabelMe
from .labelstudio import LabelStudio
from .objects import LabeledImage, LabelOptions, to_objects
from .table import Table
from .voc import PascalVoc
from .writer import Writer
from .yolo import YoloBoxes, YoloPolygons

__all__ = ['FORMATS', 'DatasetWriter', 'LabelOptions', 'LabeledImage', 'Writer', 'to_objects']

FORMATS: dict[str, type[Writer]] = {
    'coco': CocoRunLengths,
    'coco-polygons': CocoPolygons,
    'yolo': YoloBoxes,
    'yolo-segment': YoloPolygons,
    'voc': PascalVoc,
    'labelme': LabelMe,
    'labelstudio': LabelStudio,
    'csv': Table,
}


class DatasetWriter:
    """Writes the results of images as one data set.

    Example::

        writer = DatasetWriter('labels', 'coco', paths, vocabulary)
        for index, result in segmenter.stream(paths, vocabulary, on_error='skip'):
            writer.add(index, result)
        writer.finish()

    Args:
        folder: of the data set.
        to: a name in ``FORMATS``.
        paths: the images, all of them: they decide the names of the files.
        vocabulary: the classes; the background is not one of the data set's, except in masks.
        options: which objects are kept.

    Attributes:
        images: number of images so far.
        objects: number of objects so far, by class name.

    Raises:
        InputError: an unknown format.
    """

    def __init__(
        self,
        folder: str | Path,
        to: str,
        paths: Sequence[str | Path],
        vocabulary: Vocabulary,
        options: LabelOptions | None = None,
    ) -> None:
        self.to, kind = to, find_format(to)
        self.options, self.vocabulary = options or LabelOptions(), vocabulary.marking_background()
        self.writer = kind(Path(folder), self.vocabulary)
        self.images, self.objects = 0, Counter[str]()
        self.paths, self.names = [Path(path) for path in paths], output_stems(paths)

    def check(self, result: object) -> None:
        """Refuse results that the format cannot hold at all.

        Raises:
            InputError: a format that needs masks, and detections without.
        """
        if self.writer.needs_masks and isinstance(result, Detections) and result.masks is None:
            raise InputError(
                f'the format {self.to} needs masks, and this detector predicts boxes only: use '
                + ', '.join(name for name, kind in FORMATS.items() if not kind.needs_masks)
            )

    def add(self, index: int, result: object) -> LabeledImage:
        """Add the result of the image of this number.

        Args:
            index: into ``paths``.
            result: a ``Segmentation``, whose connected regions are the objects, or ``Detections``.

        Returns:
            What was added.

        Raises:
            InputError: as ``check``; an unreadable image; a full disk.
        """
        self.check(result)
        image = to_objects(result, self.paths[index], self.names[index], index + 1, self.options)
        self.writer.add(image)
        self.images += 1
        self.objects.update(self.vocabulary.class_names[one.label] for one in image.objects)
        return image

    @property
    def summary(self) -> str:
        """``'12 objects in 5 images: 7 car, 5 road'``."""
        total, most = self.objects.total(), self.objects.most_common(10)
        shown = ', '.join(f'{count} {name}' for name, count in most)
        more = ', ...' if len(self.objects) > len(most) else ''
        objects, images = _count(total, 'object'), _count(self.images, 'image')
        return f'{objects} in {images}' + (f': {shown}{more}' if total else '')

    def finish(self) -> list[Path]:
        """Write what describes the whole data set; returns these files."""
        return self.writer.finish()


def find_format(name: str) -> type[Writer]:
    """The writer of a format.

    Raises:
        InputError: there is none of this name.
    """
    if name not in FORMATS:
        raise InputError(
            f'format {name!r} is unknown; formats: {", ".join(FORMATS)}.{nearest(name, FORMATS)}'
        )
    return FORMATS[name]


def _count(number: int, noun: str) -> str:
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'
