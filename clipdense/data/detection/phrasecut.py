"""PhraseCut: phrases of images with the polygons of what they describe.  n: objects of a phrase.

A JSON list of entries: ``task_id``, ``image_id`` (the file is ``IMAGE_ID.jpg``), ``phrase``,
``instance_boxes`` (x, y, width, height of each object) and ``Polygons`` (of each object a list of polygons,
of each polygon a list of points ``[x, y]``).

Wu et al., PhraseCut (arXiv 2008.01187).

Source: ChenyunWu/PhraseCutDataset README.md.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipdense.data.json_layouts import is_phrasecut
from clipdense.data.run_lengths import check_mask
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import displayed_size
from clipdense.utils.json_files import read_json

from .coco import LARGEST_FILE, check_box, check_coco, find_images
from .grounding import CATEGORIES, CaptionRecord, GroundingDetection

_POINTS = 3  # of the smallest polygon


def read_phrasecut(
    path: str | Path, images: str | Path, sizes: str | Path | None = None
) -> tuple[dict[str, Any], list[CaptionRecord]]:
    """Read and check a file of phrases with polygons.

    Args:
        path: JSON, see above.
        images: folder of the images.
        sizes: JSON with ``image_id``, ``width`` and ``height`` of each image (``img_info.json``); read from
            the images by default.

    Returns:
        As ``read_grounding``, with an entry of ``images`` for each phrase, and masks.

    Raises:
        InputError: another layout, missing images, or an entry without phrase, with another number of
            polygons than boxes, or with polygons that are not finite or far outside of the image.

    Warns:
        UserWarning: polygons of less than three points are left out, as are phrases without polygons.
    """
    content = read_json(path, LARGEST_FILE)
    if not is_phrasecut(content):
        raise InputError(
            f"{path} is not in PhraseCut's layout: a list of entries with image_id, phrase, instance_boxes "
            'and Polygons'
        )
    kept = _entries(content, path)
    files = [{'id': place, 'file_name': f'{entry["image_id"]}.jpg'} for place, entry, _ in kept]
    known = _sizes(files, [entry['image_id'] for _, entry, _ in kept], images, sizes)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for (place, entry, objects), file, (height, width) in zip(kept, files, known, strict=True):
        where = f'{path}: {_name(entry, place)}'
        entries.append({**file, 'height': height, 'width': width, 'caption': entry['phrase']})
        for box, polygons in zip(entry['instance_boxes'], objects, strict=True):
            if polygons:
                flat = [[value for point in polygon for value in point] for polygon in polygons]
                check_mask(flat, where, (height, width))
                annotations.append(_annotation(len(annotations), place, check_box(box, where), flat))
    data = check_coco({'images': entries, 'annotations': annotations, 'categories': CATEGORIES}, str(path))
    captions = [CaptionRecord(one['caption'], (((0, len(one['caption'])),),)) for one in entries]
    return data, captions


@DATASETS.register_module()
class PhraseCut(GroundingDetection):
    """Phrases of PhraseCut as captions with one phrase each, with boxes and masks.

    Args:
        annotations: the JSON file, see ``read_phrasecut``.
        images: folder of the images.
        sizes: see ``read_phrasecut``.
        options: of ``GroundingDetection``.

    Raises:
        InputError: files that cannot be used.
    """

    def __init__(
        self, annotations: str | Path, images: str | Path, sizes: str | Path | None = None, **options: Any
    ) -> None:
        self.sizes = sizes
        super().__init__(annotations, images, **options)

    def _read(self, annotations: str | Path, images: Path) -> tuple[dict[str, Any], list[CaptionRecord]]:
        return read_phrasecut(annotations, images, self.sizes)


def _entries(content: Sequence[Any], path: str | Path) -> list[tuple[int, Any, list[list[Any]]]]:
    """Number and content of the entries with polygons, and the polygons of each object."""
    kept, small = [], 0
    for place, entry in enumerate(content):
        _check_entry(entry, f'{path}: {_name(entry, place)}')
        objects = [[one for one in polygons if len(one) >= _POINTS] for polygons in entry['Polygons']]
        small += sum(map(len, entry['Polygons'])) - sum(map(len, objects))
        if any(objects):
            kept.append((place, entry, objects))
    if not kept:
        raise InputError(f'{path}: no phrase has a polygon')
    if small:
        warnings.warn(f'{path}: {small} polygons have less than three points and are left out', stacklevel=4)
    if lost := len(content) - len(kept):
        warnings.warn(f'{path}: {lost} phrases have no polygon and are left out', stacklevel=4)
    return kept


def _check_entry(entry: Any, where: str) -> None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get('image_id'), (int, str)):
        raise InputError(f'{where} has no image_id')
    phrase = entry.get('phrase')
    if not isinstance(phrase, str) or not phrase.strip():
        raise InputError(f'{where} has no phrase, got {phrase!r:.40}')
    boxes, objects = entry.get('instance_boxes'), entry.get('Polygons')
    if not isinstance(boxes, list) or not isinstance(objects, list):
        raise InputError(f'{where} needs the lists instance_boxes and Polygons')
    if len(boxes) != len(objects):
        raise InputError(f'{where} has {len(boxes)} instance_boxes, but Polygons of {len(objects)} objects')
    for polygons in objects:
        if not _is_polygons(polygons):
            raise InputError(
                f'{where}: Polygons must be a list of polygons for each object, and each polygon a list of '
                f'finite points [x, y], got {polygons!r:.60}'
            )


def _is_polygons(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(polygon, list) and all(_is_point(point) for point in polygon) for polygon in value
    )


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in value)
    )


def _name(entry: Any, place: int) -> str:
    name = entry.get('task_id') if isinstance(entry, Mapping) else None
    return f'entry {place}' if name is None else f'task {name}'


def _annotation(number: int, image: int, box: Sequence[float], polygons: list[list[float]]) -> dict[str, Any]:
    about = {'id': number + 1, 'image_id': image, 'category_id': CATEGORIES[0]['id'], 'label': 0}
    area = float(box[2] * box[3])
    return {**about, 'bbox': list(box), 'segmentation': polygons, 'area': area, 'iscrowd': 0}


def _sizes(
    files: Sequence[Mapping[str, Any]],
    ids: Sequence[Any],
    images: str | Path,
    sizes: str | Path | None,
) -> list[tuple[int, int]]:
    """(H, W) of the image of each entry."""
    if sizes is None:
        paths = find_images(files, images, repeated=True)
        read = {path: displayed_size(path) for path in set(paths)}
        return [read[path] for path in paths]
    try:
        rows = read_json(sizes, LARGEST_FILE)
        known = {one['image_id']: (int(one['height']), int(one['width'])) for one in rows}
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f'{sizes}: needs image_id, width and height of each image') from error
    if missing := [one for one in ids if one not in known]:
        raise InputError(f'{sizes} has no size of image {missing[0]!r}, and of {len(missing) - 1} others')
    return [known[one] for one in ids]
