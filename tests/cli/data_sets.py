"""Tiny data sets of every layout, and a run of a command."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdense.cli.app import main


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def photo(path: str, size=(40, 32)) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 60).convert('RGB').save(path)
    return Path(path)


def mask(path: str, values=3, size=(40, 32)) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(size[0] * size[1]).reshape(size[::-1]) % values
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def pairs(folder: str, images='images', masks='masks', count=7, suffix='') -> str:
    for at in range(count):
        photo(f'{folder}/{images}/{at}.jpg')
        mask(f'{folder}/{masks}/{at}{suffix}.png')
    Path(folder, 'classes.txt').write_text('sky\nroad\ncar\n')
    return folder


def voc(folder: str) -> str:
    pairs(folder, 'JPEGImages', 'SegmentationClass')
    lists = Path(folder, 'ImageSets/Segmentation')
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('0\n1\n2\n3\n4\n')
    (lists / 'val.txt').write_text('5\n6\n')
    return folder


def captions(name: str, count=9, columns=('image', 'caption')) -> str:
    rows = [f'{photo(f"photos/{at}.jpg")},a photo of number {at}' for at in range(count)]
    Path(name).write_text('\n'.join([','.join(columns), *rows]) + '\n')
    return name


def shards(folder: str, count=9) -> str:
    Path(folder).mkdir(parents=True)
    with tarfile.open(f'{folder}/0.tar', 'w') as tar:
        for at in range(count):
            tar.add(photo(f'photos/{at}.jpg'), f'{at}.jpg')
            caption = Path(f'photos/{at}.txt')
            caption.write_text(f'a photo of number {at}')
            tar.add(caption, f'{at}.txt')
    return folder


def coco(name: str, count=5) -> str:
    box = {'image_id': 1, 'bbox': [4, 4, 20, 16], 'area': 320, 'iscrowd': 0}
    content = {
        'images': [
            {'id': at, 'file_name': photo(f'boxes/{at}.jpg').name, 'width': 40, 'height': 32}
            for at in range(1, count + 1)
        ],
        'annotations': [
            {**box, 'id': at, 'image_id': at, 'category_id': at % 2 + 1} for at in range(1, count + 1)
        ],
        'categories': [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}],
    }
    Path(name).write_text(json.dumps(content))
    return name


def folders(name: str) -> str:
    for kind in ('cat', 'dog'):
        for at in range(5):
            photo(f'{name}/{kind}/{at}.jpg')
    return name
