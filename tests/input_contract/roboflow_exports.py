"""Roboflow's exports and few images of them, for the section "Detection annotations"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipdense.data.detection.few_shot import FewShotDetection, draw_images
from clipdense.data.detection.roboflow import RoboflowDetection
from clipdense.data.layouts import recognize
from clipdense.utils.errors import InputError

GROUP = {'id': 0, 'name': 'animals', 'supercategory': 'none'}


def export(folder: Path, objects: tuple[int, ...] = (1, 2, 1, 1)) -> Path:
    """Images with one object each, of the category that is given."""
    (folder / 'valid').mkdir(parents=True)
    categories = [GROUP, *({'id': n, 'name': name, 'supercategory': 'animals'} for n, name in NAMES)]
    images, boxes = [], []
    for number, category in enumerate(objects):
        Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(folder / f'valid/{number}.png')
        images.append({'id': number, 'file_name': f'{number}.png', 'width': 40, 'height': 32})
        about = {'id': number, 'image_id': number, 'category_id': category, 'area': 64, 'iscrowd': 0}
        boxes.append({**about, 'bbox': [2, 2, 8, 8]})
    content = {'images': images, 'annotations': boxes, 'categories': categories}
    (folder / 'valid/_annotations.coco.json').write_text(json.dumps(content))
    return folder


NAMES = ((1, 'cat'), (2, 'dog'))


def classes(*names: str, objects: tuple[int, ...] = (1, 2, 1, 1), split: str = 'valid') -> Any:
    def read(folder: Path) -> None:
        assert RoboflowDetection(export(folder, objects), split).vocabulary.class_names == names

    return read


def several(folder: Path) -> None:
    export(folder / 'a')
    export(folder / 'b')
    recognize(folder)


def shots(folder: Path) -> None:
    for value in (0, -1, 1.5):
        with pytest.raises(InputError):
            draw_images([{1}], value)  # type: ignore[arg-type]
    draw_images([{1}], True)


def few(folder: Path) -> None:
    data = FewShotDetection(dict(type=RoboflowDetection, root=export(folder), split='val'), shots=3)
    assert len(data) == 4


READ = {
    'category 0, which other classes have as their supercategory': classes('cat', 'dog'),
    'category 0 with boxes': classes('animals', 'cat', 'dog', objects=(0, 1, 2)),
    'ids of boxes and images from 0': classes('cat', 'dog'),
    '`val` and `valid`': classes('cat', 'dog', split='val'),
    'a folder without a split': lambda folder: RoboflowDetection(folder, 'valid'),
    'a split that is not there': classes(split='tset'),
    'a folder of data sets, where one is needed': several,
    '0, -1, 1.5 or `True` shots': shots,
    'more shots than a class has images': few,
}
