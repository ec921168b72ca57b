"""Label Studio: ``tasks.json`` with predictions to import, ``label_config.xml`` and ``images/``."""

from __future__ import annotations

import xml.etree.ElementTree as Xml
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from clipdense.inference.results import write_json
from clipdense.utils.files import atomic_write
from clipdense.vocab.vocabulary import Vocabulary

from .objects import LabeledImage, LabeledObject
from .writer import Writer

_CHANNELS, _OPAQUE = 4, 255  # a brush is an RGBA image
_SIZES = (3, 4, 8, 16)  # bits of the length of a run
_LONGEST = 1 << _SIZES[-1]


class LabelStudio(Writer):
    """Brush labels of masks, and rectangle labels in percent of detections without masks."""

    summary: ClassVar[str] = 'Label Studio, tasks with predictions'

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        super().__init__(folder, vocabulary)
        self._tasks: list[dict[str, Any]] = []

    def add(self, image: LabeledImage) -> None:
        """Write an image, and what is known of it alone."""
        name = self.copy_image(image, 'images')
        result = [self._label(one, image, number) for number, one in enumerate(image.objects, 1)]
        scores = [one.score for one in image.objects]
        prediction: dict[str, Any] = {'model_version': 'clipdense', 'result': result}
        if scores:
            prediction['score'] = round(sum(scores) / len(scores), 6)
        address = f'/data/local-files/?d=images/{quote(name)}'
        task = {'id': image.number, 'data': {'image': address}, 'predictions': [prediction]}
        self._tasks.append(task)

    def _label(self, one: LabeledObject, image: LabeledImage, number: int) -> dict[str, Any]:
        height, width = image.size
        name, mask = self.vocabulary.class_names[one.label], one.mask(image.size)
        x1, y1, x2, y2 = one.box
        value: dict[str, Any] = {
            'x': 100 * x1 / width,
            'y': 100 * y1 / height,
            'width': 100 * (x2 - x1) / width,
            'height': 100 * (y2 - y1) / height,
            'rotation': 0,
        }
        kind = 'rectanglelabels' if mask is None else 'brushlabels'
        if mask is not None:
            value = {'format': 'rle', 'rle': brush(mask)}
        return {
            'id': f'{image.number}-{number}',
            'type': kind,
            'from_name': 'box' if mask is None else 'mask',
            'to_name': 'image',
            'original_width': width,
            'original_height': height,
            'image_rotation': 0,
            'score': round(one.score, 6),
            'value': {**value, kind: [name]},
        }

    def finish(self) -> list[Path]:
        """Write the tasks, and the labeling interface that they need."""
        view = Xml.Element('View')
        Xml.SubElement(view, 'Image', name='image', value='$image', zoom='true')
        for kind, name in (('BrushLabels', 'mask'), ('RectangleLabels', 'box')):
            labels = Xml.SubElement(view, kind, name=name, toName='image')
            for one in self.names:
                Xml.SubElement(labels, 'Label', value=one)
        Xml.indent(view)
        files = [self.folder / 'tasks.json', self.folder / 'label_config.xml']
        write_json(files[0], self._tasks)
        with atomic_write(files[1]) as file:
            file.write(Xml.tostring(view, encoding='utf-8'))
        return files


def brush(mask: NDArray[np.bool_]) -> list[int]:
    """(H, W) -> the bytes of Label Studio's run lengths (rle-pack) of an RGBA image, row by row.

    A header (number of values, bits of a value, the four sizes of lengths) is followed by runs: a 1, two bits
    for the size of the length, the length less one, and the value.
    """
    flat = np.asarray(mask, np.uint8).ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
    bits = [f'{flat.size * _CHANNELS:032b}', f'{7:05b}', *(f'{size - 1:04b}' for size in _SIZES)]
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        value = f'{_OPAQUE if flat[start] else 0:08b}'
        left = (end - start) * _CHANNELS
        while left:
            length = min(left, _LONGEST)
            at, size = next((at, size) for at, size in enumerate(_SIZES) if length <= 1 << size)
            bits.append(f'1{at:02b}{length - 1:0{size}b}{value}')
            left -= length
    text = ''.join(bits)
    text += '0' * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, 'big'))
