"""Every row of "Phrases with masks" in docs/input_contract.md, with the dataset that reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from clipdense.data.detection.phrasecut import PhraseCut

from .calls import each

SECTION = 'Phrases with masks'
SQUARE = [[10, 5], [30, 5], [30, 15], [10, 15]]
BOX = [10, 5, 20, 10]
SIZE = [{'image_id': 7, 'width': 60, 'height': 40}]
LINE = [[10, 5], [30, 5]]
NONE: dict[str, Any] = {}


def read(
    folder: Path, *changes: dict[str, Any], sizes: Any = None, objects: int = 1, samples: int = 1
) -> None:
    """The dataset of an entry with each of these changes; a value of None removes it."""
    Image.new('RGB', (60, 40)).save(folder / '7.jpg')
    entry = {
        'task_id': '7__1',
        'image_id': 7,
        'phrase': 'a star',
        'instance_boxes': [BOX],
        'Polygons': [[SQUARE]],
    }
    content = [
        {key: value for key, value in {**entry, **change}.items() if value is not None} for change in changes
    ]
    (folder / 'refer.json').write_text(json.dumps(content))
    options = {}
    if sizes is not None:
        (folder / 'sizes.json').write_text(json.dumps(sizes))
        options['sizes'] = folder / 'sizes.json'
    data = PhraseCut(folder / 'refer.json', folder, masks=True, **options)
    found = data[0]['data_samples'].gt_instances
    assert (len(data), len(found), len(found.masks)) == (samples, objects, objects)


def reading(*changes: dict[str, Any], **options: Any) -> Any:
    return lambda folder: read(folder, *(changes or (NONE,)), **options)


def of_captions(folder: Path) -> None:
    (folder / 'a.json').write_text(json.dumps({'images': [], 'annotations': [], 'categories': []}))
    PhraseCut(folder / 'a.json', folder)


TWO = {'instance_boxes': [BOX, BOX]}
READ = {
    'a phrase with several objects, and an object with several polygons': reading(
        {**TWO, 'Polygons': [[SQUARE], [SQUARE, SQUARE]]}, objects=2
    ),
    'an entry without `task_id`, `ann_ids` and `phrase_structure`': reading({'task_id': None}),
    'an object without polygons beside others': reading({**TWO, 'Polygons': [[], [SQUARE]]}),
    'a phrase without polygons': reading(NONE, {'Polygons': [[]]}),
    'a polygon of 2 points beside others': reading({'Polygons': [[LINE, SQUARE]]}),
    'no polygon in the whole file': reading({'Polygons': [[]]}),
    'an entry without phrase, or with an empty one': each(
        reading(NONE, {'phrase': None}), reading({'phrase': ' '})
    ),
    'an entry without `image_id`': reading(NONE, {'image_id': None, 'task_id': None}),
    'other numbers of boxes and of objects in `Polygons`': reading(TWO),
    'polygons one level too shallow, or too deep': each(
        reading({'Polygons': [SQUARE]}), reading({'Polygons': [[[SQUARE]]]})
    ),
    'a point that is NaN, text or has three numbers': each(
        *(reading({'Polygons': [[[*SQUARE, point]]]}) for point in ([1, float('nan')], ['a', 1], [1, 2, 3]))
    ),
    'polygons at 1e9': reading({'Polygons': [[[*SQUARE, [1e9, 0]]]]}),
    'a box with a negative width': reading({'instance_boxes': [[10, 5, -20, 10]]}),
    'an image that is missing': reading({'image_id': 9}),
    'a file of sizes without the image': reading(sizes=[{**SIZE[0], 'image_id': 8}]),
    'a file of sizes in another layout': each(reading(sizes={'7': [60, 40]}), reading(sizes=[[7, 60, 40]])),
    'a file of captions with boxes': of_captions,
}


def test_row(row, check):
    check(row, READ)
