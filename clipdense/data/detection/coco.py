"""Validation of COCO and LVIS JSON.

pycocotools silently gives wrong numbers for duplicate ids, annotation id 0, negative boxes and NaN
scores; here each is an error of one line that names the entry.  ``results`` checks detections.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Container, Hashable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import unquote, urlsplit

import numpy as np

from clipdense.data.image_lists import NamedFiles, first_of, relative_name
from clipdense.data.run_lengths import check_mask, has_mask, mask_area
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import MAX_PIXELS
from clipdense.utils.json_files import read_json
from clipdense.vocab.names import check_name, first_repeated

LARGEST_FILE = 4_000_000_000  # bytes; LVIS has 1.1 GB
_IDS = 1 << 63  # above the largest id: the programs that score use 64 bits
_CORNER_FRACTION = 0.05  # of boxes beyond their image from which xyxy boxes are assumed


def read_coco(path: str | Path, images: str | Path | None = None) -> dict[str, Any]:
    """Read and check a file of annotations.

    Args:
        path: JSON in COCO's or LVIS's layout.
        images: folder of the images, to check that they exist.

    Returns:
        'images', 'annotations' and 'categories'; see ``check_coco``.

    Raises:
        InputError: a missing file, invalid JSON, or as ``check_coco`` and ``find_images``.
    """
    data = check_coco(read_json(path, LARGEST_FILE), str(path))
    if images is not None:
        find_images(data['images'], images)
    return data


def check_coco(data: Any, source: str = 'the annotations') -> dict[str, Any]:
    """Validate and complete annotations.

    Annotation ids are renumbered from 1, because pycocotools misreads an id of 0; ``iscrowd`` and ``area``
    are filled in if missing; boxes without area are dropped and boxes beyond the border are clipped, with
    a warning.  A missing mask stays missing: ``run_lengths.has_mask`` tells.

    Args:
        data: content of the file.
        source: its name, for messages.

    Raises:
        InputError: missing lists; duplicate ids; categories without a name or with the same; annotations of
            images or categories that do not exist; boxes that are not four numbers, negative, or look like
            corners instead of width and height; areas, ``iscrowd`` or masks that cannot be read.
    """
    if not isinstance(data, Mapping):
        raise InputError(f'{source} is not a COCO file: expected a JSON object, got {type(data).__name__}')
    for part in ('images', 'annotations', 'categories'):
        if not isinstance(data.get(part), list):
            raise InputError(f'{source} is not a COCO file: the list {part!r} is missing')
    for part in ('images', 'annotations', 'categories'):
        _check_ids(data[part], part, source)
    names = _check_categories(data['categories'], source)
    if not data['images']:
        raise InputError(f'{source} has no images')
    sizes = {image['id']: _size_of(image, source) for image in data['images']}
    images = [
        {**image, 'height': sizes[image['id']][0], 'width': sizes[image['id']][1]} for image in data['images']
    ]
    annotations = _Annotations(sizes, set(names), source).check(data['annotations'])
    kept = {key: data[key] for key in ('info', 'licenses') if key in data}
    categories = [{**one, 'name': names[one['id']]} for one in data['categories']]
    return {**kept, 'images': images, 'annotations': annotations, 'categories': categories}


def find_images(
    images: Sequence[Mapping[str, Any]], folder: str | Path, repeated: bool = False
) -> list[Path]:
    """The file of each image.

    Args:
        images: of the annotations.
        folder: that their names are relative to.
        repeated: whether several entries may be about one file.

    Raises:
        InputError: images are missing (the first ten are named), or a name points outside the folder.

    Warns:
        UserWarning: two images have the same file, unless ``repeated``.
    """
    folder = Path(folder)
    files = NamedFiles(folder)
    names = [file_name(image) for image in images]
    found = [files.find(name) or _with_any_ending(name, folder) for name in names]
    missing = [name for name, file in zip(names, found, strict=True) if file is None]
    if missing:
        raise InputError(
            f'{len(missing)} of {len(names)} images are missing in {folder}: {first_of(missing)}'
            f'{files.hint(missing[0])}'
        )
    paths = [file for file in found if file is not None]
    if not repeated and len(set(paths)) < len(paths):
        twice, count = Counter(paths).most_common(1)[0]
        warnings.warn(f'{count} images of the annotations have the file {twice}', stacklevel=2)
    return paths


def file_name(image: Mapping[str, Any]) -> str:
    """Path of an image relative to its folder; for LVIS from its ``coco_url``.

    Raises:
        InputError: the image has neither.
    """
    name = image.get('file_name')
    if isinstance(name, str) and name.strip():
        return name
    address = image.get('coco_url')
    parts = unquote(urlsplit(address).path).split('/')[-2:] if isinstance(address, str) else []
    if len(parts) < 2 or not parts[-1]:
        raise InputError(f'image {image["id"]} has neither a file_name nor a coco_url (text)')
    return '/'.join(parts)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite real number."""
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def among(key: Any, known: Container[Any]) -> bool:
    """Whether a value, which may not be hashable, is one of the known ones."""
    return isinstance(key, Hashable) and key in known


def check_box(box: Any, where: str) -> tuple[float, float, float, float]:
    """Four finite numbers x, y, width, height.

    Raises:
        InputError: others, or a negative width or height.
    """
    if isinstance(box, np.ndarray):
        box = box.tolist()
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        raise InputError(f'{where}: bbox must be four numbers, got {box!r:.60}')
    if not all(is_number(value) for value in box):
        raise InputError(f'{where}: bbox {box!r:.60} contains a value that is not a finite number')
    if box[2] < 0 or box[3] < 0:
        raise InputError(
            f'{where}: bbox {list(box)} has a negative width or height; boxes are x, y, width, height'
        )
    return box[0], box[1], box[2], box[3]


def _check_ids(items: Sequence[Any], part: str, source: str) -> None:
    for number, item in enumerate(items):
        given = item.get('id') if isinstance(item, Mapping) else None
        if not isinstance(given, Integral) or isinstance(given, bool) or abs(int(given)) >= _IDS:
            hint = '' if given is None else f', got {given!r:.40}'
            raise InputError(f'{source}: entry {number} of {part} has no integer id{hint}')
    counts = Counter(item['id'] for item in items)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise InputError(f'{source}: {len(twice)} ids of {part} are not unique, first {twice[0]}')


def _check_categories(categories: Sequence[Mapping[str, Any]], source: str) -> dict[int, str]:
    if not categories:
        raise InputError(f'{source} has no categories')
    names: dict[int, str] = {}
    for category in categories:
        name = category.get('name')
        if not isinstance(name, str) or not name.strip():
            raise InputError(f'{source}: category {category["id"]} has no name')
        try:
            names[category['id']] = check_name(name, 'name')
        except InputError as error:
            raise InputError(f'{source}: category {category["id"]}: {error}') from error
    twice = first_repeated(list(names.values()))
    if twice is not None:
        also = '' if twice[0] == twice[1] else f', also written {twice[1]!r}'
        raise InputError(f'{source}: two categories have the name {twice[0]!r}{also}')
    return names


def _size_of(image: Mapping[str, Any], source: str) -> tuple[int, int]:
    """(H, W)."""
    size = (image.get('width'), image.get('height'))
    if not all(is_number(side) and side > 0 and side == int(side) for side in size):
        missing = size == (None, None)
        what = 'no width and height' if missing else f'invalid width and height {size}'
        raise InputError(f'{source}: image {image["id"]} has {what}')
    width, height = (int(side) for side in size if side is not None)
    if width * height > MAX_PIXELS:
        raise InputError(
            f'{source}: image {image["id"]} has {width} x {height} pixels, above the limit of {MAX_PIXELS}'
        )
    return height, width


class _Annotations:
    """Checks annotations one by one and counts what it changes.

    Args:
        sizes: (H, W) by image id.
        categories: ids.
        source: name of the file, for messages.
    """

    def __init__(self, sizes: Mapping[int, tuple[int, int]], categories: set[int], source: str) -> None:
        self.sizes, self.categories, self.source = sizes, categories, source
        self.beyond, self.changed = 0, Counter[str]()

    def check(self, annotations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Checked copies, numbered from 1; those with an empty box are left out."""
        kept: list[dict[str, Any]] = []
        crowds = any('iscrowd' in one for one in annotations)  # LVIS has none
        for annotation in annotations:
            checked = self._check(annotation, crowds)
            if checked is not None:
                kept.append({**checked, 'id': len(kept) + 1})
        if self.beyond > _CORNER_FRACTION * len(annotations) and self._all_corners(annotations):
            raise InputError(
                f'{self.source}: {self.beyond} of {len(annotations)} boxes extend beyond their image, and '
                'all would fit as x1, y1, x2, y2; COCO boxes must be x, y, width, height'
            )
        for what, count in self.changed.items():
            warnings.warn(f'{self.source}: {count} {what}', stacklevel=4)
        return kept

    def _check(self, annotation: Mapping[str, Any], crowds: bool) -> dict[str, Any] | None:
        where = f'{self.source}: annotation {annotation["id"]}'
        if not among(annotation.get('image_id'), self.sizes):
            raise InputError(f'{where}: image_id {annotation.get("image_id")!r} is not in images')
        if not among(annotation.get('category_id'), self.categories):
            raise InputError(f'{where}: category_id {annotation.get("category_id")!r} is not in categories')
        size = self.sizes[annotation['image_id']]
        masked = has_mask(annotation)
        if masked:
            check_mask(annotation['segmentation'], where, size)
        box = self._box(annotation, where, size)
        if min(box[2:]) <= 0:
            self.changed['boxes without area were dropped'] += 1
            return None
        filled = {**annotation, 'bbox': box}
        if not masked:
            filled.pop('segmentation', None)
        if filled.get('iscrowd') is None:
            filled['iscrowd'] = 0
            if crowds:
                self.changed['annotations have no iscrowd, which is taken as 0'] += 1
        if filled.get('area') is None:
            filled['area'] = mask_area(filled['segmentation'], size) if masked else box[2] * box[3]
            self.changed['annotations have no area, which is taken from the mask, or else the box'] += 1
        if not is_number(filled['area']) or filled['area'] < 0 or filled['iscrowd'] not in (0, 1):
            raise InputError(f'{where}: invalid area {filled["area"]!r} or iscrowd {filled["iscrowd"]!r}')
        if filled.get('ignore') and not filled['iscrowd']:
            self.changed['annotations have ignore=1, which is not used; iscrowd=1 excludes a region'] += 1
        return filled

    def _box(self, annotation: Mapping[str, Any], where: str, size: tuple[int, int]) -> list[float]:
        """The box clipped to the image; up to a pixel beyond the border is rounding."""
        left, top, width, height = check_box(annotation.get('bbox'), where)
        right, bottom = left + width, top + height
        outside = right > size[1] + 1 or bottom > size[0] + 1
        self.beyond += outside
        if min(left, top) >= -1 and not outside:
            return [left, top, width, height]
        self.changed['boxes beyond the image border were clipped'] += 1
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, size[1]), min(bottom, size[0])
        return [left, top, right - left, bottom - top]

    def _all_corners(self, annotations: Sequence[Mapping[str, Any]]) -> bool:
        return all(
            box[0] < box[2] <= self.sizes[one['image_id']][1] + 1
            and box[1] < box[3] <= self.sizes[one['image_id']][0] + 1
            for one in annotations
            for box in [one['bbox']]
        )


def _with_any_ending(name: str, folder: Path) -> Path | None:
    path = folder / relative_name(name, folder)
    return path if os.path.isfile(path) else None  # also for a name that is too long
