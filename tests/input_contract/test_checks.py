"""The table below "Checks before a training" of docs/input_contract.md."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from clipdense.data.checking import check_data
from clipdense.utils.errors import InputError

SECTION = 'Checks before a training'


def photo(path: Path, size=(40, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 60).convert('RGB').save(path)
    return path


def mask(path: Path, values=2, size=(40, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(size[0] * size[1]).reshape(size[::-1]) % values
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def checked(path: Path, **options) -> None:
    """Problems as errors, notes as warnings: what the table distinguishes."""
    report = check_data(path, **options)
    if report.faults:
        raise InputError('; '.join(report.faults))
    for line in report.remarks:
        warnings.warn(line, stacklevel=1)


def masks(damage: Callable[[Path], object], classes='sky\nroad\n') -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        for at in range(6):
            photo(folder / f'images/{at}.jpg')
            mask(folder / f'masks/{at}.png')
        (folder / 'classes.txt').write_text(classes)
        damage(folder)
        checked(folder)

    return read


def captions(*rows: str, lost=(), **options) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        for at in range(3):
            if at not in lost:
                photo(folder / f'{at}.jpg')
        (folder / 'mine.csv').write_text('\n'.join(('filepath,title', *rows)) + '\n')
        checked(folder / 'mine.csv', **options)

    return read


def boxes(box=(4, 4, 20, 16), width=40) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        photo(folder / '1.jpg')
        one = {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': box, 'area': box[2] * box[3], 'iscrowd': 0}
        content = {
            'images': [{'id': 1, 'file_name': '1.jpg', 'width': width, 'height': 32}],
            'annotations': [one],
            'categories': [{'id': 1, 'name': 'cat'}],
        }
        (folder / 'mine.json').write_text(json.dumps(content))
        checked(folder / 'mine.json')

    return read


def class_folders(folder: Path) -> None:
    for at in range(4):
        photo(folder / f'cat/{at}.jpg')
        photo(folder / f'dog/{at}.jpg')
    (folder / 'bird').mkdir()
    checked(folder)


def nothing(folder: Path) -> None:
    (folder / 'notes.md').write_text('x')
    checked(folder)


ROWS = ('0.jpg,a cat', '1.jpg,a dog', '2.jpg,a bird')
READ: dict[str, Callable[[Path], None]] = {
    'a mask with a label that is not a class': masks(lambda at: mask(at / 'masks/1.png', 9)),
    'a mask of another size than its image': masks(lambda at: mask(at / 'masks/1.png', 2, (8, 8))),
    'an image without a mask, in folders of both': masks(lambda at: (at / 'masks/1.png').unlink()),
    'a class that is in no mask': masks(lambda at: None, 'sky\nroad\ncar\n'),
    'captions of which no image can be read': captions(*ROWS, lost=(0, 1, 2)),
    'one image of three that cannot be read, of captions': captions(*ROWS, lost=(1,)),
    'a caption that occurs twice': captions(*ROWS, '1.jpg,a cat'),
    'a caption longer than the context': captions(*ROWS, f'1.jpg,{"word " * 90}'),
    'a table with a header only': captions(),
    'fewer samples than the batch': captions(*ROWS, batch_size=8),
    'a box narrower than two pixels': boxes((4, 4, 1, 16)),
    'an image of another size than its annotations say': boxes(width=50),
    'a class folder without images': class_folders,
    'a folder of another layout': nothing,
}


def test_row(row, check):
    check(row, READ)
