"""Every row of "Captions with boxes" in docs/input_contract.md, with the dataset that reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipdense.data.detection.flickr import read_flickr
from clipdense.data.detection.grounding import GroundingDetection

from ..data.detection.test_flickr import an_object, release
from .calls import each

SECTION = 'Captions with boxes'
CAPTION = 'a cat and a dog'
CAT, DOG = [[2, 5]], [[12, 15]]


def read(
    folder: Path, *boxes: Any, captions: Any = (CAPTION,), samples: int = 1, phrases: int = 1, **options: Any
) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / 'a.png')
    images = [
        {'id': number, 'file_name': 'a.png', 'width': 60, 'height': 40, 'caption': text}
        for number, text in enumerate(captions, 1)
    ]
    about = {'image_id': 1, 'category_id': 1, 'bbox': [1, 2, 9, 9], 'area': 81, 'iscrowd': 0}
    annotations = [
        {**about, 'id': 7 + number, **({} if spans == 'none' else {'tokens_positive': spans})}
        for number, spans in enumerate(boxes)
    ]
    content = {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'object'}]}
    (folder / 'a.json').write_text(json.dumps(content))
    data = GroundingDetection(folder / 'a.json', folder, **options)
    found = data[0]['data_samples']
    assert (len(data), len(found.phrases), len(found.gt_instances)) == (samples, phrases, len(boxes))


def reading(*boxes: Any, **options: Any) -> Any:
    return lambda folder: read(folder, *boxes, **options)


def released(
    boxes: int, kinds: set[str], sentences: str | None = None, two: bool = False, objects: Any = None
) -> Any:
    """Reads Flickr30k Entities of one image; looks at the number of boxes and the kinds of phrases."""
    text = '[/EN#13/other/clothing a hat] .' if sentences is None else sentences
    if objects is None:
        box, flags = (5, 5, 25, 45), '<scene>1</scene><nobndbox>1</nobndbox>'
        girl, hat, scene = an_object(12, box=box), an_object(13, box=box), an_object(14, more=flags)
        objects = [girl, hat, scene, *([an_object(13, 16, box=box)] * 2 if two else [])]

    def read(folder: Path) -> None:
        data, _ = read_flickr(release(folder, text, objects), 'test')
        assert (len(data['annotations']), {one['name'] for one in data['categories']}) == (boxes, kinds)

    return read


READ = {
    'several entries of one image file': reading(CAT, captions=(CAPTION, 'a dog'), samples=2),
    'a phrase with several spans': reading([*CAT, *DOG]),
    'several boxes of one phrase': reading(CAT, CAT),
    'an entry without boxes': reading(phrases=0),
    'an entry without `caption`, or with an empty one or a number': each(
        *(reading(CAT, captions=(text,)) for text in (None, ' ', 7))
    ),
    'an annotation without `tokens_positive`': reading('none'),
    '`tokens_positive` of a single span, `[0, 5]`': reading([0, 5]),
    '`tokens_positive` that is nested too deep, `[[[0, 5], [6, 9]]]`': reading([[[0, 5], [6, 9]]]),
    '`tokens_positive` that is empty or text': each(reading('0-5'), reading([])),
    'a span outside of the caption, or an empty one': each(reading([[3, 3]]), reading([[2, 99]])),
    'no boxes at all, in training': reading(training=True),
}


FLICKR = {
    'a phrase of two kinds, `/EN#13/other/clothing`': released(1, {'other', 'clothing'}),
    'several boxes of an entity, and one box of several entities': released(
        3, {'other', 'clothing'}, two=True
    ),
    'entity 0, scenes, phrases without a box': released(
        1, {'people'}, '[/EN#12/people a] [/EN#0/notvisual b] [/EN#14/scene c] [/EN#9/other d]'
    ),
    'a bracket that is not closed': released(0, set(), '[/EN#12/people a girl'),
    'a phrase in a phrase': released(0, set(), '[/EN#12/people a [/EN#13/other hat] ]'),
    '`[a] dog`, `[/EN#x/other dog]`': each(
        released(0, set(), '[a] dog'), released(0, set(), '[/EN#x/other dog]')
    ),
    'an object without box, `nobndbox` and `scene`': released(0, set(), objects=[an_object(12)]),
    'an empty file of sentences': released(0, set(), ''),
}
READ |= FLICKR


def test_row(row, check):
    check(row, READ)
