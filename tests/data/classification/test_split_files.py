"""Split files of CoOp: JSON, and pickles that are read without running anything."""

from __future__ import annotations

import json
import os
import pickle

import pytest

from clipdense.data.classification.few_shot import FewShotImages
from clipdense.data.classification.split_files import read_split_file
from clipdense.data.classification.splits import open_part
from clipdense.utils.errors import InputError

PARTS = {
    'train': [['0.png', 0, 'sea_lion'], ['1.png', 1, 'ox']],
    'val': [['2.png', 1, 'ox']],
    'test': [['3.png', 0, 'sea_lion']],
}


class Datum:
    """As in Dassl."""

    def __init__(self, impath='', label=0, domain=0, classname=''):
        self._impath, self._label, self._domain, self._classname = impath, label, domain, classname


@pytest.fixture
def write(make_images, tmp_path):
    """Writes a split file next to four images: JSON, or a pickle as CoOp leaves it on some machine."""

    def run(
        content=PARTS, name='split_zhou_Own.json', folder='own/images', start='/home/somebody/data/own/images'
    ):
        make_images({folder: 4}, tmp_path)
        path = tmp_path / 'own' / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == '.json':
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        else:
            listed = {
                part: [Datum(f'{start}/{image}', label, 0, classname) for image, label, classname in images]
                for part, images in content.items()
            }
            path.write_bytes(pickle.dumps(listed, protocol=pickle.HIGHEST_PROTOCOL))
        return path

    return run


@pytest.mark.parametrize('folder', ['own/images', 'own'])
def test_json(write, folder):
    file = read_split_file(write(folder=folder))
    assert file.class_names == ('sea lion', 'ox')
    assert file.parts['train'] == (('0.png', 0), ('1.png', 1))
    assert file.root.samefile(file.path.parents[1] / folder)


@pytest.mark.parametrize('start', ['/home/somebody/data/own/images', r'D:\data\own\images', 'images'])
def test_pickle(write, start):
    few = {part: PARTS[part] for part in ('train', 'val')}
    path = write(few, 'split_fewshot/shot_1-seed_2.pkl', start=start)
    file = read_split_file(path)
    assert file.class_names == ('sea lion', 'ox')
    assert [label for _, label in file.parts['train']] == [0, 1]
    found = [[(file.root / image).name for image, _ in images] for images in file.parts.values()]
    assert found == [['0.png', '1.png'], ['2.png']]
    assert all((file.root / image).is_file() for images in file.parts.values() for image, _ in images)
    with pytest.raises(InputError, match=r'has no test images, only train and val; the split_zhou_\*.json'):
        open_part(path, 'test')


def test_images_elsewhere(write, make_images, tmp_path):
    path = write()
    make_images({'far': 4}, tmp_path)
    assert read_split_file(path, tmp_path / 'far').root == tmp_path / 'far'


def test_as_data(write):
    path = write()
    data = FewShotImages(path, 'train', shots=1, classes='new')
    assert (data.class_names, len(data), data[0]['labels']) == (('ox',), 1, 0)
    assert open_part(path, 'test', class_names=['seal', 'bull']).class_names == ('seal', 'bull')


@pytest.mark.filterwarnings('ignore:.*images of its own')
def test_no_validation_images(write):
    rows = [[f'{number}.png', 0, 'ox'] for number in range(4)]
    path = write({'train': rows, 'test': rows[:0]})
    assert [len(open_part(path, part)) for part in ('train', 'val')] == [3, 1]


def change(part, row):
    return {**PARTS, part: [*PARTS[part], row]}


REFUSED = {
    'no parts': ({'images': []}, "must be an object with 'train', 'val' and 'test'"),
    'a list': ([], 'must be an object'),
    'not JSON': ('{', 'is not valid JSON'),
    'empty': ('', 'is empty'),
    'no images': ({'train': []}, 'lists no images'),
    'a part that is no list': ({'train': 3}, "'train' must be a list"),
    'a short row': (change('val', ['a.png', 0]), r'val\[1\] must be \[path, label, class name\]'),
    'a path that is no text': (change('val', [3, 0, 'ox']), r'val\[1\]: the path must be text'),
    'a label that is text': (
        change('val', ['0.png', '0', 'ox']),
        r'val\[1\]: the label must be a whole number',
    ),
    'a label below 0': (change('val', ['0.png', -1, 'ox']), 'the label must be'),
    'a name that is no text': (
        change('val', ['0.png', 1, None]),
        r'class name of .*val\[1\] must be a string',
    ),
    'two names of a label': (
        change('val', ['0.png', 1, 'cow']),
        "label 1 has two class names, 'ox' and 'cow'",
    ),
    'a name of two labels': (change('val', ['0.png', 2, 'Sea Lion']), 'two labels have the same class name'),
    'a gap in the labels': (change('val', ['0.png', 4, 'cow']), r'\[2, 3\] have no image'),
    'a missing image': (
        change('test', ['absent.png', 0, 'sea_lion']),
        "1 of 2 images of 'test' .* absent.png",
    ),
    'an image outside': (change('test', ['../own/images/0.png', 0, 'sea_lion']), 'outside'),
    'no image at all': ({'train': [['x.png', 0, 'ox']]}, "'x.png' is not in .*pass images=FOLDER"),
}


@pytest.mark.parametrize(('content', 'message'), REFUSED.values(), ids=REFUSED)
def test_refuses(write, content, message):
    with pytest.raises(InputError, match=message) as error:
        read_split_file(write(content))
    assert 'split_zhou_Own.json' in str(error.value) or 'outside' in message or 'missing' in message


class Evil:
    def __reduce__(self):
        return os.system, ('touch clipdense_ran',)


PICKLES = {
    'a call': (pickle.dumps({'train': Evil()}), 'contains posix.system, which a split file does not need'),
    'damaged': (pickle.dumps(PARTS)[:20], 'is damaged or not a pickle'),
    'text': (b'hello', 'is damaged or not a pickle'),
    'something else': (pickle.dumps([1]), "must be a dict with 'train' and 'val'"),
    'no list': (pickle.dumps({'train': 3}), "'train' must be a list"),
    'plain rows': (pickle.dumps({'train': [1]}), r'train\[0\]: the path must be text'),
}


@pytest.mark.parametrize(('data', 'message'), PICKLES.values(), ids=PICKLES)
def test_pickles_that_are_refused(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)  # a call would leave its file here
    path = tmp_path / 'shot_1-seed_1.pkl'
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_split_file(path)
    assert not (tmp_path / 'clipdense_ran').exists()


def test_an_image_in_two_parts_is_said(write):
    with pytest.warns(UserWarning, match='1 images are in two parts, .*: 0.png'):
        read_split_file(write(change('test', ['0.png', 0, 'sea_lion'])))
