"""Which files are meant, and names for what is made from them."""

from __future__ import annotations

import os

import pytest

from clipdense.utils.errors import InputError
from clipdense.utils.image_files import list_images, output_stems

FILES = [
    'b/2.jpg',
    'b/1.JPG',
    'b/deep/3.png',
    'b/.hidden.png',
    'b/.git/4.png',
    'b/note.txt',
    'c/x[1].png',
    'plain',
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ('sources', 'expected'),
    [
        (['b/2.jpg'], ['b/2.jpg']),
        ('b/2.jpg', ['b/2.jpg']),
        (['plain', 'b/note.txt'], ['plain', 'b/note.txt']),
        (['b'], ['b/1.JPG', 'b/2.jpg', 'b/deep/3.png']),
        (['b/*.jpg'], ['b/2.jpg']),
        (['**/*.png'], ['b/deep/3.png', 'c/x[1].png']),
        (['c/x[1].png'], ['c/x[1].png']),
        (['b/2.jpg', 'b'], ['b/2.jpg', 'b/1.JPG', 'b/deep/3.png']),
        (['b/2.jpg', './b/../b/2.jpg'], ['b/2.jpg']),
    ],
    ids=[
        'file',
        'one text',
        'any ending',
        'folder',
        'pattern',
        'deep pattern',
        'brackets',
        'twice',
        'same file',
    ],
)
def test_sources(folder, sources, expected):
    assert [os.fspath(path) for path in list_images(sources)] == expected


@pytest.mark.parametrize(
    ('sources', 'message'),
    [
        ([], 'no images given'),
        (['empty'], 'no images in empty'),
        (['b/*.gif'], r'no images match the pattern .*b/\*\.gif'),
        (['b/22.jpg'], r"does not exist. Did you mean '2.jpg'"),
        (['nowhere/2.jpg'], 'does not exist'),
    ],
    ids=['none', 'empty folder', 'pattern', 'misspelt', 'does not exist'],
)
def test_what_is_not_there_is_named(folder, sources, message):
    with pytest.raises(InputError, match=message):
        list_images(sources)


@pytest.mark.parametrize(
    ('paths', 'expected'),
    [
        ([], []),
        (['a/1.jpg', 'b/2.jpg'], ['1', '2']),
        (['a/1.jpg', 'b/1.jpg'], ['a_1', 'b_1']),
        (['a/1.jpg', 'a/1.png'], ['1_jpg', '1_png']),
        (['a/X.jpg', 'b/x.jpg'], ['a_X', 'b_x']),
        (['1.jpg', '1.jpg'], ['1_jpg', '1_jpg-2']),
        (['1.jpg', '1.jpg', '1.jpg-2'], ['1_jpg', '1_jpg-3', '1_jpg-2']),
        (['a/\n:*.jpg'], ['___']),
        (['a/ü 日本.jpg'], ['ü 日本']),
        (['a/\udce4.jpg'], ['_']),
        (['a/..jpg', 'b/c.jpg'], ['_', 'c']),
        (['x' * 300 + '.jpg'], ['x' * 120]),
        (['x' * 300 + '1.jpg', 'x' * 300 + '2.jpg'], ['x' * 120, 'x' * 120 + '-2']),
    ],
)
def test_names_are_safe_and_differ(paths, expected):
    assert output_stems(paths) == expected
    assert len({name.casefold() for name in expected}) == len(paths)
