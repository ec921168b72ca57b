"""Validation of COCO and LVIS JSON.

pycocotools silently gives wrong numbers for duplicate ids, annotation id 0, negative boxes and NaN
scores; here each is an error of one line that names the entry.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, TypeGuard

from mmengine.logging import print_log

from clipdense.utils.errors import InputError

_CORNER_FRACTION = 0.05  # of boxes beyond their image from which xyxy boxes are assumed
_POLYGON = 6  # numbers of the smallest polygon


def read_coco(path: str | Path, images: str | Path | None = None) -> dict[str, Any]:
    """Read and check a file of annotations.

    Args:
        path: JSON in COCO's or LVIS's layout.
        images: folder of the images, to check that they exist.

    Returns:
        'images', 'annotations' and 'categories'; see ``check_coco``.

    Raises:
        InputError: a missing file, invalid JSON, or as ``check_coco``.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error
    except ValueError as error:
        raise InputError(f'{path} is not JSON: {error}') from error
    data = check_coco(data, str(path))
    if images is not None:
        check_images(data['images'], Path(images))
    return data


def check_coco(data: Any, source: str = 'the annotations') -> dict[str, Any]:
    """Validate and complete annotations.

    Annotation ids are renumbered from 1, because pycocotools misreads an id of 0; ``iscrowd`` and ``area``
    are filled in if missing; boxes without area are dropped and boxes beyond the border are clipped, with
    a log message.

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
    sizes = {image['id']: _size_of(image, source) for image in data['images']}
    annotations = _check_annotations(data['annotations'], sizes, set(names), source)
    kept = {key: data[key] for key in ('info', 'licenses') if key in data}
    return {**kept, 'images': data['images'], 'annotations': annotations, 'categories': data['categories']}


def check_images(images: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Check that every image exists in the folder.

    Raises:
        InputError: images are missing, or a name points outside the folder.
    """
    names = [file_name(image) for image in images]
    for name in names:
        if Path(name).is_absolute() or '..' in Path(name).parts:
            raise InputError(f'image {name!r} is outside {folder}; names must be relative to this folder')
    listed = {parent: _list(folder / parent) for parent in {str(Path(name).parent) for name in names}}
    missing = [name for name in names if Path(name).name not in listed[str(Path(name).parent)]]
    if missing:
        raise InputError(
            f'{len(missing)} of {len(names)} images are missing in {folder}, first {missing[0]!r}'
        )


def file_name(image: Mapping[str, Any]) -> str:
    """Path of an image relative to its folder; for LVIS from its ``coco_url``.

    Raises:
        InputError: the image has neither.
    """
    if image.get('file_name'):
        return str(image['file_name'])
    address = str(image.get('coco_url', ''))
    if '/' not in address:
        raise InputError(f'image {image["id"]} has no file_name and no coco_url')
    return '/'.join(address.split('/')[-2:])


def check_results(
    results: Any, images: Iterable[int], categories: Iterable[int], source: str = 'the results'
) -> list[dict[str, Any]]:
    """Validate detections in COCO's results format.

    Raises:
        InputError: not a list; images or categories that are not in the ground truth; scores that are
            not finite; boxes that are not four numbers or negative; neither box nor mask.
    """
    if not isinstance(results, list):
        raise InputError(f'{source} must be a list of detections, not a {type(results).__name__}')
    known = {'image_id': set(images), 'category_id': set(categories)}
    for number, result in enumerate(results):
        where = f'{source}, detection {number}'
        if not isinstance(result, Mapping):
            raise InputError(f'{where} must be a JSON object, got {type(result).__name__}')
        for key, values in known.items():
            if not _among(result.get(key), values):
                raise InputError(f'{where}: {key} {result.get(key)!r} is not in the ground truth')
        score = result.get('score')
        if not _is_number(score):
            raise InputError(f'{where}: score must be a finite number, got {score!r}')
        if 'bbox' in result:
            _check_box(result['bbox'], where)
        elif 'segmentation' not in result:
            raise InputError(f'{where} has neither bbox nor segmentation')
        _check_segmentation(result.get('segmentation'), where)
    return results


def _check_ids(items: Sequence[Any], part: str, source: str) -> None:
    for number, item in enumerate(items):
        if not isinstance(item, Mapping) or not isinstance(item.get('id'), int):
            raise InputError(f'{source}: entry {number} of {part} has no integer id')
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
        names[category['id']] = name
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise InputError(f'{source}: two categories have the name {twice[0]!r}')
    return names


def _size_of(image: Mapping[str, Any], source: str) -> tuple[float, float]:
    """Width and height."""
    size = (image.get('width'), image.get('height'))
    if not all(_is_number(side) and side > 0 for side in size):
        raise InputError(f'{source}: image {image["id"]} has invalid width and height {size}')
    return size  # type: ignore[return-value]


def _check_annotations(
    annotations: Sequence[Mapping[str, Any]],
    sizes: Mapping[int, tuple[float, float]],
    categories: set[int],
    source: str,
) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    empty, beyond, cut = 0, 0, 0
    for annotation in annotations:
        where = f'{source}: annotation {annotation["id"]}'
        if not _among(annotation.get('image_id'), sizes):
            raise InputError(f'{where}: image_id {annotation.get("image_id")!r} is not in images')
        if not _among(annotation.get('category_id'), categories):
            raise InputError(f'{where}: category_id {annotation.get("category_id")!r} is not in categories')
        left, top, width, height = _check_box(annotation.get('bbox'), where)
        across, down = sizes[annotation['image_id']]
        beyond += left + width > across + 1 or top + height > down + 1
        box = _inside((left, top, width, height), across, down)
        cut += box != [left, top, width, height]
        if min(box[2:]) <= 0:
            empty += 1
            continue
        filled = {'iscrowd': 0, 'area': box[2] * box[3], **annotation, 'bbox': box, 'id': len(kept) + 1}
        if not _is_number(filled['area']) or filled['iscrowd'] not in (0, 1):
            raise InputError(f'{where}: invalid area {filled["area"]!r} or iscrowd {filled["iscrowd"]!r}')
        _check_segmentation(filled.get('segmentation'), where, (down, across))
        kept.append(filled)
    if beyond > _CORNER_FRACTION * len(annotations) and _all_corners(annotations, sizes):
        raise InputError(
            f'{source}: {beyond} of {len(annotations)} boxes extend beyond their image, and all would fit as '
            'x1, y1, x2, y2; COCO boxes must be x, y, width, height'
        )
    for count, what in (
        (empty, 'boxes without area were dropped'),
        (cut, 'boxes beyond the image border were clipped'),
    ):
        if count:
            print_log(f'{source}: {count} {what}', logger='current', level=logging.WARNING)
    return kept


def _inside(box: tuple[float, float, float, float], across: float, down: float) -> list[float]:
    """The box x, y, width, height clipped to the image; up to a pixel beyond the border is rounding."""
    left, top, width, height = box
    right, bottom = left + width, top + height
    if min(left, top) >= -1 and right <= across + 1 and bottom <= down + 1:
        return [left, top, width, height]
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, across), min(bottom, down)
    return [left, top, right - left, bottom - top]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, Real) and math.isfinite(value)


def _among(key: Any, known: Container[Any]) -> bool:
    return isinstance(key, Hashable) and key in known


def _check_box(box: Any, where: str) -> tuple[float, float, float, float]:
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        raise InputError(f'{where}: bbox must be four numbers, got {box!r:.60}')
    if not all(_is_number(value) for value in box):
        raise InputError(f'{where}: bbox {box} contains a value that is not a finite number')
    if box[2] < 0 or box[3] < 0:
        raise InputError(f'{where}: bbox {list(box)} has a negative width or height')
    return box[0], box[1], box[2], box[3]


def _check_segmentation(segmentation: Any, where: str, size: tuple[float, float] | None = None) -> None:
    """Refuse masks that crash pycocotools; run lengths must have the image's ``size`` (H, W)."""
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < _POLYGON or len(polygon) % 2:
                raise InputError(
                    f'{where}: a polygon needs at least three points and an even number of values'
                )
            try:
                finite = math.isfinite(sum(polygon))
            except TypeError:
                finite = False
            if not finite:
                raise InputError(f'{where}: a polygon contains a value that is not a finite number')
    elif segmentation is not None:
        values = segmentation if isinstance(segmentation, Mapping) else {}
        if not isinstance(values.get('counts'), (str, bytes, list)) or len(values.get('size') or ()) != 2:
            raise InputError(f'{where}: segmentation must be polygons or run lengths')
        if size is not None and tuple(values['size']) != size:
            raise InputError(
                f'{where}: run lengths have size {tuple(values["size"])}, expected {size} (H, W)'
            )


def _all_corners(annotations: Sequence[Mapping[str, Any]], sizes: Mapping[int, tuple[float, float]]) -> bool:
    return all(
        box[0] < box[2] <= sizes[one['image_id']][0] + 1 and box[1] < box[3] <= sizes[one['image_id']][1] + 1
        for one in annotations
        for box in [one['bbox']]
    )


def _list(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError:
        return set()
