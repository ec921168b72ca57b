"""The tables below "Few-shot data" of docs/input_contract.md."""

from __future__ import annotations

import json
import os
import pickle

from PIL import Image

from clipdense.data.classification.few_shot import FewShotImages
from clipdense.data.classification.splits import open_part
from clipdense.evaluation.base_to_new import BaseToNew

SECTION = 'Few-shot data'
EACH = ('train', 'val', 'test')


def images(folder, counts):
    """So many images in each folder."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new('RGB', (4, 4)).save(folder / name / f'{number}.png')


def sizes(counts, *expected, damage=(), **options):
    """The numbers of images of train, val and test, or of ``split``."""

    def run(folder):
        images(folder / 'x', counts)
        for name in damage:
            (folder / 'x' / name).write_bytes(b'')
        parts = [options['split']] if 'split' in options else EACH
        found = [FewShotImages(folder / 'x', **{'split': part, **options}) for part in parts]
        assert tuple(map(len, found)) == expected

    return run


def parts(train=3, **others):
    return {
        f'{part}/{name}': count
        for part, count in {'train': train, **others}.items()
        for name in ('ant', 'bee')
    }


THREE = parts(4, val=1, test=2)
ROWS = {'train': [['0.png', 0, 'sea_lion'], ['1.png', 1, 'ox']], 'test': [['2.png', 1, 'ox']], 'val': []}


def split_file(content=ROWS, name='split_zhou_Own.json', part='train', count=2):
    def run(folder):
        images(folder, {'images': 4})
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if name.endswith('.pkl'):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        assert len(open_part(path, part)) == count

    return run


class Datum:
    """As in Dassl."""

    def __init__(self, path, label, name):
        self._impath, self._label, self._domain, self._classname = path, label, 0, name


class Evil:
    def __reduce__(self):
        return os.system, ('true',)


def datums(rows):
    return pickle.dumps(
        {part: [Datum(f'/far/own/images/{row[0]}', *row[1:]) for row in rows[part]] for part in rows}
    )


FULL = {**ROWS, 'val': [['3.png', 0, 'sea_lion']]}
PICKLE = 'split_fewshot/shot_1-seed_1.pkl'

READ = {
    'folders `train`, `val` and `test` of class folders': sizes(THREE, 8, 2, 4),
    'class folders': sizes({'ant': 10, 'bee': 10}, 10, 4, 6),
    'folders `train` and `val`': sizes(parts(10, val=1), 16, 4, 2),
    'folders `train` and `test`': sizes(parts(10, test=1), 16, 4, 2),
    'class folders, one of which is called `train`': sizes({'train': 10, 'bus': 10}, 20, split='all'),
    'a class that only the test images have': sizes({**THREE, 'test/cat': 1}, 4, split='test'),
    'a class that the test images do not have': sizes({**THREE, 'train/cat': 1}, 4, split='test'),
    'folders `val` and `valid`': sizes({**THREE, 'valid/ant': 1}, 1, split='val'),
    'shots of 0, -1, 2.5 or text': sizes(THREE, 1, split='train', shots=0),
    'a class with fewer images than shots': sizes(THREE, 8, split='train', shots=16),
    'the same with `strict=True`': sizes(THREE, 8, split='train', shots=16, strict=True),
    'a class without images': sizes({**THREE, 'train/cat': 0}, 2, split='train', shots=1),
    'an image that cannot be read': sizes(
        THREE, 3, split='train', shots=2, damage=[f'train/ant/{number}.png' for number in range(3)]
    ),
    'folders `ant_1` and `Ant 1`': sizes({'ant_1': 4, 'Ant 1': 4}, 8, split='all'),
    "`classes='base'` of 3 classes": sizes({'ant': 1, 'bee': 1, 'cat': 1}, 2, split='all', classes='base'),
    "`classes='new'` of 1 class": sizes({'ant': 1}, 0, split='all', classes='new'),
    'a class name that the data does not have': sizes(THREE, 1, split='test', classes=['dog']),
    "`split='all'` of data with parts": sizes(THREE, 1, split='all'),
    '`split_zhou_*.json` next to or above its images': split_file(FULL),
    'the same without validation images': split_file(
        {**ROWS, 'train': [[f'{n}.png', 1, 'ox'] for n in range(2)] + [['3.png', 0, 'seal']]}, count=2
    ),
    '`split_fewshot/shot_1-seed_1.pkl` from another machine': split_file(datums(FULL), PICKLE),
    'its test images': split_file(datums({**FULL, 'test': []}), PICKLE, 'test'),
    'a pickle that calls a function': split_file(pickle.dumps({'train': Evil()}), PICKLE),
    'a damaged pickle': split_file(datums(FULL)[:30], PICKLE),
    'a label with two class names': split_file({**FULL, 'test': [['2.png', 1, 'cow']]}),
    'a class name of two labels': split_file({**FULL, 'test': [['2.png', 2, 'Ox']]}),
    'labels with a gap': split_file({**FULL, 'test': [['2.png', 4, 'cow']]}),
    'an image that does not exist': split_file({**FULL, 'test': [['x.png', 1, 'ox']]}),
    'an image outside the folder': split_file({**FULL, 'test': [['../0.png', 1, 'ox']]}),
    'an image in two parts': split_file({**FULL, 'test': [['0.png', 0, 'sea_lion']]}),
    'accuracy in percent, NaN or text': lambda folder: BaseToNew(82.7, 63.2),
}


def test_row(row, check):
    check(row, READ)
