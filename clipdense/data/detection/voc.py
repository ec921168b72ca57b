"""PASCAL VOC's XML boxes in COCO's layout."""

from __future__ import annotations

import xml.etree.ElementTree as Xml
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipdense.utils.errors import InputError

from .coco import check_coco, check_images

_ENDINGS = ('.jpg', '.jpeg', '.png', '.JPG')


def read_voc(root: str | Path, split: str) -> dict[str, Any]:
    """The boxes of one list of images.

    VOC counts pixels from 1, ends included: 1, 1, 10, 10 becomes 0, 0 and a width of 10.  Difficult objects
    are marked ``iscrowd``, and are ignored in training and evaluation.

    Args:
        root: folder with ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``.
        split: 'train', 'val', ...

    Returns:
        Checked annotations; image ids count from 1 in the order of the list, categories are sorted.

    Raises:
        InputError: a list, annotation or image is missing or cannot be read.
    """
    root = Path(root)
    names = _listed(root / 'ImageSets' / 'Main' / f'{split}.txt')
    images, found = [], []
    for number, name in enumerate(names, 1):
        path = root / 'Annotations' / f'{name}.xml'
        tree = _parse(path)
        images.append({'id': number, 'file_name': _image(root, name), **_size(tree, path)})
        found += [{'image_id': number, **one} for one in _objects(tree, path)]
    categories = sorted({one['name'] for one in found})
    ids = {name: number for number, name in enumerate(categories, 1)}
    annotations = [
        {'id': number, 'category_id': ids[one.pop('name')], **one} for number, one in enumerate(found, 1)
    ]
    data = {
        'images': images,
        'annotations': annotations,
        'categories': [{'id': number, 'name': name} for name, number in ids.items()],
    }
    checked = check_coco(data, f'{root} ({split})')
    check_images(checked['images'], root / 'JPEGImages')
    return checked


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text('utf-8').splitlines()
    except OSError as error:
        raise InputError(f'cannot read the list {path}: {error.strerror}') from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise InputError(f'the list {path} is empty')
    return names


def _parse(path: Path) -> Xml.Element:
    try:
        return Xml.parse(path).getroot()
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error
    except Xml.ParseError as error:
        raise InputError(f'{path} is not XML: {error}') from error


def _image(root: Path, name: str) -> str:
    there = (f'{name}{ending}' for ending in _ENDINGS if (root / 'JPEGImages' / f'{name}{ending}').is_file())
    return next(there, f'{name}.jpg')


def _size(tree: Xml.Element, path: Path) -> dict[str, int]:
    try:
        return {key: int(tree.findtext(f'size/{key}', '')) for key in ('width', 'height')}
    except ValueError as error:
        raise InputError(f'{path} has no valid size/width and size/height') from error


def _objects(tree: Xml.Element, path: Path) -> Iterator[dict[str, Any]]:
    for item in tree.iter('object'):
        name = (item.findtext('name') or '').strip()
        if not name:
            raise InputError(f'{path}: an object has no name')
        try:
            corners = [float(item.findtext(f'bndbox/{key}', '')) for key in ('xmin', 'ymin', 'xmax', 'ymax')]
        except ValueError as error:
            raise InputError(f'{path}: an object has no bndbox with four numbers') from error
        x1, y1, x2, y2 = corners
        left, top = max(x1 - 1, 0), max(y1 - 1, 0)
        yield {
            'name': name,
            'bbox': [left, top, x2 - left, y2 - top],
            'iscrowd': int(item.findtext('difficult', '0').strip() == '1'),
        }
