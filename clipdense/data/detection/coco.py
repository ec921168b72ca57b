"""COCO and LVIS JSON, checked before anything counts on it.

pycocotools gives wrong numbers without a word on duplicate ids, annotation id 0, negative boxes and scores
that are not numbers; here each is one line that names the place.
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

_SHARE_OF_CORNERS = 0.05  # of boxes beyond their image's border, from which on they are taken for corners
_POLYGON = 6  # numbers of the smallest one


def read_coco(path: str | Path, images: str | Path | None = None) -> dict[str, Any]:
    """Read and check a file of annotations.

    Args:
        path: JSON in COCO's or LVIS's layout.
        images: folder of the images, to look whether they are there.

    Returns:
        'images', 'annotations' and 'categories'; see ``check_coco``.

    Raises:
        InputError: no such file, no JSON, or as ``check_coco``.
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
    """Annotations that can be evaluated, or one line about what is wrong.

    Annotation ids are given anew, from 1, so that an id of 0 does no harm; ``iscrowd`` and ``area`` are
    filled in where they are missing; boxes without area are left out and boxes beyond the border cut, with
    a line in the log.

    Args:
        data: what the file holds.
        source: its name.

    Raises:
        InputError: missing lists; duplicate ids; categories without a name or with the same; annotations of
            images or categories that are not there; boxes that are no four numbers, negative, or look like
            corners instead of width and height; areas, ``iscrowd`` or masks that cannot be read.
    """
    if not isinstance(data, Mapping):
        raise InputError(f'{source} is no COCO file: it holds a {type(data).__name__}, not an object')
    for part in ('images', 'annotations', 'categories'):
        if not isinstance(data.get(part), list):
            raise InputError(f'{source} is no COCO file: it has no list of {part}')
    for part in ('images', 'annotations', 'categories'):
        _check_ids(data[part], part, source)
    names = _check_categories(data['categories'], source)
    sizes = {image['id']: _size_of(image, source) for image in data['images']}
    annotations = _check_annotations(data['annotations'], sizes, set(names), source)
    kept = {key: data[key] for key in ('info', 'licenses') if key in data}
    return {**kept, 'images': data['images'], 'annotations': annotations, 'categories': data['categories']}


def check_images(images: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Every image lies in the folder.

    Raises:
        InputError: some are missing, or a name points out of the folder.
    """
    names = [file_name(image) for image in images]
    for name in names:
        if Path(name).is_absolute() or '..' in Path(name).parts:
            raise InputError(f'image {name!r} lies outside {folder}: names must be relative to it')
    listed = {parent: _list(folder / parent) for parent in {str(Path(name).parent) for name in names}}
    missing = [name for name in names if Path(name).name not in listed[str(Path(name).parent)]]
    if missing:
        raise InputError(
            f'{len(missing)} of {len(names)} images are missing in {folder}, the first is {missing[0]!r}'
        )


def file_name(image: Mapping[str, Any]) -> str:
    """Where an image lies below its folder; LVIS only gives the address at COCO's.

    Raises:
        InputError: it does not say.
    """
    if image.get('file_name'):
        return str(image['file_name'])
    address = str(image.get('coco_url', ''))
    if '/' not in address:
        raise InputError(f'image {image["id"]} has no file_name')
    return '/'.join(address.split('/')[-2:])


def check_results(
    results: Any, images: Iterable[int], categories: Iterable[int], source: str = 'the results'
) -> list[dict[str, Any]]:
    """Detections in COCO's results layout that can be scored.

    Raises:
        InputError: not a list; images or categories that the ground truth does not have; scores that are
            not finite; boxes that are no four numbers or negative; neither box nor mask.
    """
    if not isinstance(results, list):
        raise InputError(f'{source} must be a list of detections, not a {type(results).__name__}')
    known = {'image_id': set(images), 'category_id': set(categories)}
    for number, result in enumerate(results):
        where = f'{source}, detection {number}'
        if not isinstance(result, Mapping):
            raise InputError(f'{where} is a {type(result).__name__}, not an object')
        for key, values in known.items():
            if not _among(result.get(key), values):
                raise InputError(f'{where}: {key} {result.get(key)!r} is not in the ground truth')
        score = result.get('score')
        if not _is_number(score):
            raise InputError(f'{where}: its score is {score!r}, not a finite number')
        if 'bbox' in result:
            _check_box(result['bbox'], where)
        elif 'segmentation' not in result:
            raise InputError(f'{where} has neither bbox nor segmentation')
        _check_segmentation(result.get('segmentation'), where)
    return results


def _check_ids(items: Sequence[Any], part: str, source: str) -> None:
    for number, item in enumerate(items):
        if not isinstance(item, Mapping) or not isinstance(item.get('id'), int):
            raise InputError(f'{source}: entry {number} of {part} has no whole number as its id')
    counts = Counter(item['id'] for item in items)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise InputError(f'{source}: {len(twice)} ids of {part} occur twice or more, first {twice[0]}')


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
        raise InputError(f'{source}: two categories are called {twice[0]!r}')
    return names


def _size_of(image: Mapping[str, Any], source: str) -> tuple[float, float]:
    """Width and height."""
    size = (image.get('width'), image.get('height'))
    if not all(_is_number(side) and side > 0 for side in size):
        raise InputError(f'{source}: image {image["id"]} has width and height {size}')
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
            raise InputError(f'{where} is of image {annotation.get("image_id")!r}, which is not listed')
        if not _among(annotation.get('category_id'), categories):
            raise InputError(f'{where} is of category {annotation.get("category_id")!r}, which is not listed')
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
            raise InputError(f'{where}: its area is {filled["area"]!r} and its iscrowd {filled["iscrowd"]!r}')
        _check_segmentation(filled.get('segmentation'), where, (down, across))
        kept.append(filled)
    if beyond > _SHARE_OF_CORNERS * len(annotations) and _all_corners(annotations, sizes):
        raise InputError(
            f'{source}: {beyond} of {len(annotations)} boxes end beyond their image, and all would fit as '
            'x1, y1, x2, y2: COCO wants x, y, width, height'
        )
    for count, what in (
        (empty, 'boxes without area are left out'),
        (cut, 'boxes beyond the border are cut'),
    ):
        if count:
            print_log(f'{source}: {count} {what}', logger='current', level=logging.WARNING)
    return kept


def _inside(box: tuple[float, float, float, float], across: float, down: float) -> list[float]:
    """The part of x, y, width, height in the image; up to a pixel beyond the border is rounding."""
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
        raise InputError(f'{where}: its bbox is {box!r:.60}, not four numbers')
    if not all(_is_number(value) for value in box):
        raise InputError(f'{where}: its bbox {box} holds something that is not a finite number')
    if box[2] < 0 or box[3] < 0:
        raise InputError(f'{where}: its bbox {list(box)} has a negative width or height')
    return box[0], box[1], box[2], box[3]


def _check_segmentation(segmentation: Any, where: str, size: tuple[float, float] | None = None) -> None:
    """What pycocotools would crash on; run lengths must be of an image of ``size`` (H, W)."""
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < _POLYGON or len(polygon) % 2:
                raise InputError(f'{where}: a polygon needs at least three points, and pairs of numbers')
            try:
                finite = math.isfinite(sum(polygon))
            except TypeError:
                finite = False
            if not finite:
                raise InputError(f'{where}: a polygon holds something that is not a finite number')
    elif segmentation is not None:
        values = segmentation if isinstance(segmentation, Mapping) else {}
        if not isinstance(values.get('counts'), (str, bytes, list)) or len(values.get('size') or ()) != 2:
            raise InputError(f'{where}: its segmentation is neither polygons nor run lengths')
        if size is not None and tuple(values['size']) != size:
            raise InputError(f'{where}: its run lengths are of {tuple(values["size"])} pixels, not {size}')


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
