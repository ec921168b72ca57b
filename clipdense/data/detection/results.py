"""Validation of detections in COCO's results layout, for what is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from clipdense.data.run_lengths import check_mask, check_texts, has_mask, to_run_lengths
from clipdense.utils.errors import InputError

from .coco import among, check_box, is_number

Kind = Literal['bbox', 'segm']
_TOGETHER = 16  # masks that are checked in one step; more do not fit the processor's cache


def check_results(
    results: Any,
    images: Iterable[Mapping[str, Any]],
    categories: Iterable[int],
    kind: Kind,
    source: str = 'the results',
) -> list[dict[str, Any]]:
    """Validate detections.

    Args:
        results: list of detections.
        images: of the checked ground truth.
        categories: ids in the ground truth.
        kind: what is measured.
        source: start of messages.

    Returns:
        Copies with only a box, or only a mask as compressed run lengths: a mask with a box would get the area
        of the box.

    Raises:
        InputError: neither list nor tuple; images or categories that are not in the ground truth; scores
            that are not finite; boxes that are not four numbers or negative; no box or no mask where it is
            measured; masks that cannot be read or do not have the size of their image.
    """
    if not isinstance(results, (list, tuple)):
        raise InputError(f'{source} must be a list of detections, not a {type(results).__name__}')
    sizes = {image['id']: (image['height'], image['width']) for image in images}
    known = {'image_id': sizes.keys(), 'category_id': set(categories)}
    checked: list[dict[str, Any]] = []
    texts: list[tuple[str | bytes, str, tuple[int, int]]] = []  # masks that are checked together
    for number, result in enumerate(results):
        where = f'{source}, detection {number}'
        if not isinstance(result, Mapping):
            raise InputError(f'{where} must be a JSON object, got {type(result).__name__}')
        for key, values in known.items():
            if not among(result.get(key), values):
                raise InputError(f'{where}: {_unknown(key, result.get(key), values)}')
        if not is_number(result.get('score')):
            raise InputError(f'{where}: score must be a finite number, got {result.get("score")!r}')
        size = sizes[result['image_id']]
        checked.append(_only(kind, result, where, size))
        text = _text(result, size) if kind == 'segm' else None
        if text is not None:
            texts.append((text, where, size))
    for start in range(0, len(texts), _TOGETHER):
        check_texts(*zip(*texts[start : start + _TOGETHER], strict=True))
    return checked


def _only(kind: Kind, result: Mapping[str, Any], where: str, size: tuple[int, int]) -> dict[str, Any]:
    """The parts of a detection that are measured."""
    kept: dict[str, Any] = {key: int(result[key]) for key in ('image_id', 'category_id')}
    kept['score'] = float(result['score'])
    box, mask = result.get('bbox'), result.get('segmentation')
    box = None if box is None else [float(value) for value in check_box(box, where)]
    if has_mask(result) and not isinstance(mask, (list, Mapping)):
        raise InputError(f'{where}: segmentation must be polygons or run lengths, got {mask!r:.60}')
    if kind == 'bbox':
        if box is None:
            raise InputError(f'{where} has no bbox, but boxes are measured')
        return {**kept, 'bbox': box}
    if not has_mask(result):
        raise InputError(f'{where} has no segmentation, but masks are measured')
    if _text(result, size) is None:
        check_mask(mask, where, size)
    return {**kept, 'segmentation': to_run_lengths(mask, size)}


def _text(result: Mapping[str, Any], size: tuple[int, int]) -> str | bytes | None:
    """The text of compressed run lengths of the right size; None for other masks."""
    mask = result['segmentation']
    if type(mask) is not dict or mask.get('size') != list(size):
        return None
    counts = mask.get('counts')
    return counts if isinstance(counts, (str, bytes)) else None


def _unknown(key: str, value: Any, known: Any) -> str:
    hint = ''
    if isinstance(value, str) and value.strip().lstrip('-').isdecimal() and int(value) in known:
        hint = f': it is text; write the number {int(value)}'
    return f'{key} {value!r:.60} is not in the ground truth{hint}'
