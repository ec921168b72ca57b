"""The tables below "Image lists" of docs/input_contract.md: one rule for all datasets."""

from __future__ import annotations

import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from clipdense.data.detection.coco import find_images
from clipdense.data.detection.datasets import VOCDetection
from clipdense.data.segmentation.datasets import VOCSegmentation
from clipdense.data.segmentation.few_shot import CocoFold, PascalFold
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import write_mask

SECTION = 'Image lists'

XML = (
    '<annotation><size><width>4</width><height>3</height></size><object><name>cat</name><bndbox><xmin>1</xmin>'
    '<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object></annotation>'
)


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (4, 3)).save(path, 'TIFF' if path.suffix == '.tif' else 'PNG')


def make(root, text, files):
    """A folder in the layout of PASCAL VOC, with masks and boxes of the files."""
    for file in files:
        save(root / 'JPEGImages' / file)
        stem = os.path.splitext(file)[0]
        write_mask(root / 'SegmentationClass' / f'{stem}.png', np.zeros((3, 4), int))
        annotation = root / 'Annotations' / f'{stem}.xml'
        annotation.parent.mkdir(parents=True, exist_ok=True)
        annotation.write_text(XML)
    (root / 'classes.txt').write_text('background\ncat\n')
    for kind in ('Main', 'Segmentation'):
        path = root / 'ImageSets' / kind / 'val.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def reads(text, files, expected=None, split='val'):
    """Both readers find the expected files, all by default, with their masks and boxes."""

    def check(root):
        make(root, text, files)
        wanted = [str(root / 'JPEGImages' / file) for file in (expected or files)]
        boxes = VOCDetection(root, split)
        assert [str(one.path) for one in boxes.images] == wanted
        assert all(len(one.objects) == 1 for one in boxes.images)
        masks = VOCSegmentation(root, split)
        assert [str(path) for path in masks.images] == wanted
        assert [path.stem for path in masks.masks] == [path.stem for path in masks.images]

    return check


def both(*checks):
    def check(root):
        for number, one in enumerate(checks):
            one(root / str(number))

    return check


def pipe_as_list(root):
    make(root, 'a', ['a.jpg'])
    path = root / 'ImageSets/Segmentation/val.txt'
    path.unlink()
    os.mkfifo(path)
    VOCSegmentation(root)


def not_files(root):
    make(root, 'a', ['b.jpg'])
    (root / 'JPEGImages/a.jpg').mkdir()
    os.mkfifo(root / 'JPEGImages/a.png')
    VOCDetection(root, 'val')


def coco_fold(root, names=('../a.jpg',)):
    names = names if isinstance(names, str) else list(names)
    (root / 'lists.json').write_text(json.dumps({str(at): names for at in range(80)}))
    CocoFold(root, 0, root / 'lists.json')


def pascal_fold(root):
    names = ['my photo 1', unicodedata.normalize('NFC', 'café')]
    files = [f'{names[0]}.jpg', f'{unicodedata.normalize("NFD", names[1])}.PNG']
    for file in files:
        save(root / 'JPEGImages' / file)
        write_mask(root / 'SegmentationClassAug' / f'{os.path.splitext(file)[0]}.png', np.zeros((3, 4), int))
    lists = root / 'val/fold0.txt'
    lists.parent.mkdir()
    lists.write_bytes('\r\n'.join(['', *(f'{name}__03' for name in names)]).encode('utf-8-sig'))
    fold = PascalFold(root, 0, lists=root, episodes=None)
    assert [fold.episode(at).image.name for at in range(2)] == files
    assert [fold[at]['samples'].class_id for at in range(2)] == [2, 2]


def coco(file, expected=None, images='.', **image):
    def check(root):
        save(root / 'sub' / 'a 1.jpg')
        found = find_images([{'id': 1, **({'file_name': file} if file else {}), **image}], root / images)
        assert [str(path.relative_to(root)) for path in found] == [expected or 'sub/a 1.jpg']

    return check


def odd_names(root):
    for name in (5, ['a'], '', ' ', 'a\udc80'):
        with pytest.raises(InputError, match='image'):
            find_images([{'id': 1, 'file_name': name}], root)
    find_images([{'id': 1, 'file_name': 'a' * 5000}], root)


def missing_in_coco(root):
    save(root / 'a.jpg')
    find_images([{'id': 1, 'file_name': 'a.jpg'}, {'id': 2, 'file_name': 'b.jpg'}], root)


def shared_in_coco(root):
    save(root / 'a.jpg')
    assert len(find_images([{'id': 1, 'file_name': 'a.jpg'}, {'id': 2, 'file_name': './a.jpg'}], root)) == 2


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, 'ångström') for form in ('NFC', 'NFD'))

READ = {
    'names with spaces, one a line': both(
        reads('my photo 1\n', ['my photo 1.jpg']),
        reads('my photo -1\nmy  photo\n', ['my photo -1.jpg', 'my  photo.png']),
        reads('Bild (3) – Kopie\n', ['Bild (3) – Kopie.jpg']),
    ),
    '`dog` and `dog 2` in one list': both(
        reads('dog\ndog 2\n', ['dog.jpg', 'dog 2.jpg']),
        reads('dog 2\ndog\n', ['dog 2.jpg', 'dog.jpg']),
        reads('dog 2\n', ['dog.jpg', 'dog 2.jpg'], ['dog 2.jpg']),
    ),
    'spaces around a name, blank lines': reads('\n  a\t\n\n b \n\n', ['a.jpg', 'b.jpg']),
    'line ends of Windows and of old Macs': both(
        reads('a\r\nb\r\n', ['a.jpg', 'b.jpg']), reads('a\rb', ['a.jpg', 'b.jpg'])
    ),
    'byte order mark': reads('a\nb'.encode('utf-8-sig'), ['a.jpg', 'b.jpg']),
    '`sub/a`, `./a`, `sub\\a`': both(
        reads('sub/a\n./b', ['sub/a.jpg', 'b.jpg']), reads('sub\\a', ['sub/a.jpg'])
    ),
    '`a.jpg`, with the ending': reads('a.jpg\nb.PNG\nc', ['a.jpg', 'b.PNG', 'c.webp']),
    'a name listed twice': reads('a\nb\na\n', ['a.jpg', 'b.jpg']),
    '`a 1`, `b -1`: a list of one class, with flags': reads(
        'a  1\nb -1\nc d  0\n', ['a.jpg', 'b.jpg', 'c d.jpg']
    ),
    'flags, and images that are called `a` and `a 1`': reads('a\na 1\n', ['a.jpg', 'a 1.jpg']),
    'a list in Latin-1': reads('a\ncafé\n'.encode('latin-1'), ['a.jpg']),
    'an empty list': reads('\ufeff\n \r\n', ['a.jpg']),
    'no list of this split': reads('a', ['a.jpg'], split='vla'),
    'a named pipe in place of a list': pipe_as_list,
    '`/data/a.jpg`, an absolute path': reads('/data/a.jpg', ['a.jpg']),
    '`../a`': reads('../a', ['a.jpg']),
    '`.JPG`, `.JPEG`, `.png`, `.webp`, `.tif`': reads(
        'a\nb\nc\nd\ne', ['a.JPG', 'b.JPEG', 'c.png', 'd.webp', 'e.tif']
    ),
    'a name with a dot: `a.b` for `a.b.jpg`': reads('a.b\na', ['a.b.jpg', 'a.jpg']),
    'accents composed in the list, decomposed in the file name': both(
        reads(COMPOSED, [f'{DECOMPOSED}.jpg']), reads(DECOMPOSED, [f'{COMPOSED}.jpg'])
    ),
    'other capitals: `A` for `a.jpg`': reads('A', ['a.jpg']),
    '`a` where there are `a.jpg` and `a.png`': reads('a', ['a.jpg', 'a.png']),
    '`a.jpg` where there are `a.jpg` and `a.png`': reads('a.jpg', ['a.png', 'a.jpg'], ['a.jpg']),
    'images that do not exist': reads('a\nb\nc', ['a.jpg']),
    'an image that is a folder or a named pipe': not_files,
    'a list of COCO-20i (JSON) with `../a.jpg`': coco_fold,
    'lines of PASCAL-5i with spaces and accents': pascal_fold,
    'COCO `file_name` with `\\` of Windows': coco('sub\\a 1.jpg'),
    'COCO `file_name` without ending': coco('sub/a 1'),
    'COCO `file_name` with a folder that the given folder already is': coco('sub/a 1.jpg', images='sub'),
    'COCO `file_name` that is a number, a list, empty or 5,000 letters long': odd_names,
    'a list of COCO-20i with text in place of a list': lambda root: coco_fold(root, 'abc'),
    'COCO `file_name` with `../`': coco('sub/../../a.jpg'),
    'LVIS `coco_url` with `%20` and a query': coco('', coco_url='http://host/x/sub/a%201.jpg?size=2'),
    'COCO images that do not exist': missing_in_coco,
    'two COCO images with one file': shared_in_coco,
}


def test_row(row, check):
    check(row, READ)
