"""PASCAL VOC: ``Annotations/NAME.xml``, ``SegmentationClass/NAME.png``, and the lists of images."""

from __future__ import annotations

import math
import warnings
import xml.etree.ElementTree as Xml
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np

from clipdense.utils.files import atomic_write
from clipdense.utils.image_io import write_mask
from clipdense.utils.palette import class_palette
from clipdense.vocab.vocabulary import Vocabulary

from .objects import LabeledImage
from .writer import Writer

_IGNORED = 255  # mask value of pixels that have no label
_LIST = 'train.txt'


class PascalVoc(Writer):
    """Boxes in XML, which count pixels from 1 with both ends, and masks as palette images.

    Mask values are the numbers of the classes, see ``classes.txt``.  Pixels of regions that were left out
    have the value 255, which readers ignore.  Where detections overlap, the mask has the one with the higher
    score.
    """

    summary: ClassVar[str] = 'PASCAL VOC, boxes and masks'

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        super().__init__(folder, vocabulary)
        self._written: list[str] = []
        self._masked = False
        self._mask_names: Vocabulary | None = None

    def add(self, image: LabeledImage) -> None:
        """Write an image, and what is known of it alone."""
        file_name = self.copy_image(image, 'JPEGImages')
        tree = self._xml(image, file_name)
        with atomic_write(self.folder / 'Annotations' / f'{image.name}.xml') as file:
            file.write(Xml.tostring(tree, encoding='utf-8', xml_declaration=True))
        self._write_mask(image)
        self._written.append(image.name)

    def _xml(self, image: LabeledImage, file_name: str) -> Xml.Element:
        tree = Xml.Element('annotation')
        _texts(tree, [('folder', 'JPEGImages'), ('filename', file_name)])
        height, width = image.size
        _texts(Xml.SubElement(tree, 'size'), [('width', width), ('height', height), ('depth', 3)])
        _texts(tree, [('segmented', int(any(one.crop is not None for one in image.objects)))])
        for one in image.objects:
            item = Xml.SubElement(tree, 'object')
            name = self.vocabulary.class_names[one.label]
            _texts(item, [('name', name), ('pose', 'Unspecified'), ('truncated', 0), ('difficult', 0)])
            x1, y1 = math.floor(one.box[0]) + 1, math.floor(one.box[1]) + 1
            x2, y2 = max(x1, math.ceil(one.box[2])), max(y1, math.ceil(one.box[3]))
            corners = [('xmin', x1), ('ymin', y1), ('xmax', x2), ('ymax', y2)]
            _texts(Xml.SubElement(item, 'bndbox'), corners)
            _texts(item, [('score', f'{one.score:.6g}')])
        Xml.indent(tree)
        return tree

    def _write_mask(self, image: LabeledImage) -> None:
        masked = image.classes is not None or any(one.crop is not None for one in image.objects)
        if not masked and not self._masked:
            return
        self._mask_names = self._names_of_masks(image.classes is not None)
        if len(self._mask_names) > _IGNORED:
            warnings.warn(f'masks of PASCAL VOC have {_IGNORED} classes at most: they are not written')
            return
        self._masked = True
        background = self._mask_names.background
        empty = _IGNORED if background is None else self._mask_names.index(background)
        mask = np.full(image.size, _IGNORED if image.classes is not None else empty, np.int32)
        if image.classes is not None and background is not None:
            mask[image.classes == empty] = empty
        for one in sorted(image.objects, key=lambda one: one.score):
            if one.crop is not None:
                name = self.vocabulary.class_names[one.label]
                (x, y), (height, width) = one.corner, one.crop.shape
                mask[y : y + height, x : x + width][one.crop] = self._mask_names.index(name)
        path = self.folder / 'SegmentationClass' / f'{image.name}.png'
        hidden = None if background is None else empty
        write_mask(path, mask, class_palette(len(self._mask_names), hidden))

    def _names_of_masks(self, everywhere: bool) -> Vocabulary:
        """The classes of the masks; where objects do not fill the image, the rest is a background."""
        if everywhere or self.vocabulary.background is not None:
            return self.vocabulary
        return self.vocabulary.with_background()

    def finish(self) -> list[Path]:
        """Write the lists of images, and the classes by mask value."""
        files = [self.folder / 'ImageSets/Main' / _LIST]
        if self._masked:
            files.append(self.folder / 'ImageSets/Segmentation' / _LIST)
            assert self._mask_names is not None
            self._mask_names.save(self.folder / 'vocabulary.json')
        for path in files:
            _write_lines(path, self._written)
        names = (self._mask_names if self._masked else self.vocabulary) or self.vocabulary
        plain = [name for name in names.class_names if ',' not in name and not name.startswith('#')]
        if len(plain) == len(names):  # a line of this file has synonyms after a comma
            _write_lines(self.folder / 'classes.txt', names.class_names)
        return files


def _texts(parent: Xml.Element, values: Iterable[tuple[str, object]]) -> None:
    for tag, value in values:
        Xml.SubElement(parent, tag).text = str(value)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_write(path, 'w') as file:
        file.write(''.join(f'{line}\n' for line in lines))
