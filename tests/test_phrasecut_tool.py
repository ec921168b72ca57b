"""The tool that writes phrases of scenes in PhraseCut's layout."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
from PIL import Image

from clipdense.data.detection.phrasecut import read_phrasecut
from clipdense.data.run_lengths import to_pixels

TOOL = Path(__file__).parents[1] / 'tools/phrasecut_scenes.py'


def test_masks_are_exact(tmp_path):
    mask = np.zeros((12, 16), np.uint8)
    mask[2:6, 3:9] = 1
    mask[4:8, 11:13] = 1  # a second part, and rows of two runs
    mask[5, 5] = 0  # a hole
    runs = np.diff([0, *(np.flatnonzero(np.diff(mask.T.ravel())) + 1), mask.size]).tolist()
    (tmp_path / 'images').mkdir()
    (tmp_path / 'annotations').mkdir()
    Image.new('RGB', (16, 12)).save(tmp_path / 'images/val_0.jpg')
    about = {'bbox': [3, 2, 10, 6], 'area': 1, 'iscrowd': 0, 'image_id': 1}
    mask_of = {'size': [12, 16], 'counts': runs}
    content = {
        'images': [{'id': 1, 'file_name': 'val_0.jpg', 'width': 16, 'height': 12}],
        'categories': [{'id': 1, 'name': 'red star'}, {'id': 2, 'name': 'blue disc'}],
        'annotations': [
            {**about, 'id': number, 'category_id': kind, 'segmentation': mask_of}
            for number, kind in enumerate((1, 1, 2), 1)
        ],
    }
    path = tmp_path / 'annotations/instances_val.json'
    path.write_text(json.dumps(content))
    runpy.run_path(str(TOOL))['main']([str(path)])
    truth, captions = read_phrasecut(tmp_path / 'images/refer_val.json', tmp_path / 'images')
    assert [one.text for one in captions] == ['red star', 'blue disc']
    assert [one['image_id'] for one in truth['annotations']] == [0, 0, 1]
    for one in truth['annotations']:
        assert np.array_equal(to_pixels(one['segmentation'], (12, 16)), mask)
