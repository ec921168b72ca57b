"""Any list of names over any folder: every name is found, refused or said; nothing is cut or swapped."""

from __future__ import annotations

import tempfile
import unicodedata
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdense.data.image_lists import NamedFiles, read_lines, read_names, relative_name, without_flags
from clipdense.utils.errors import InputError

STEMS = st.text(
    st.characters(exclude_categories=('Cs', 'Cc'), exclude_characters='/\\\0:'), min_size=1, max_size=20
).filter(lambda text: text.strip() == text and text not in ('.', '..') and not text.startswith('\ufeff'))
ENDINGS = st.sampled_from(['.jpg', '.JPEG', '.png', '.webp'])


def tried(call):
    """The result, or the error message of one line."""
    try:
        return call()
    except InputError as error:
        return str(error)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(STEMS, min_size=1, max_size=6, unique_by=lambda text: unicodedata.normalize('NFC', text)),
    st.sampled_from(['\n', '\r\n', '\r', '\n\n', ' \n\t']),
    st.booleans(),
    ENDINGS,
)
def test_every_name_finds_its_own_file(names, line_end, mark, ending):
    """Rows in = images out, in the order of the list."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / 'images').mkdir()
        for name in names:
            (root / 'images' / f'{name}{ending}').touch()
        text = line_end.join(names)
        (root / 'list.txt').write_bytes(text.encode('utf-8-sig' if mark else 'utf-8'))
        listed = read_names(root / 'list.txt')
        assert listed == names
        files = NamedFiles(root / 'images')
        found = files.find_all(without_flags(listed, files, 'list.txt'), 'listed')
        assert [path.name for path in found] == [f'{name}{ending}' for name in names]
        assert [files.name_of(path) for path in found] == names


@settings(deadline=None, max_examples=80)
@given(st.binary(max_size=80))
def test_any_bytes_are_lines_or_an_error(content):
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / 'list.txt'
        path.write_bytes(content)
        files = NamedFiles(scratch)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            names = tried(lambda: without_flags(read_names(path), files, path))
        if isinstance(names, str):
            assert '\n' not in names
            return
        assert len(set(names)) == len(names) == len(set(read_lines(path)))
        with pytest.raises(InputError):  # the folder has no images
            files.find_all(names, 'listed')


@pytest.mark.parametrize('name', ['/a', '../a', 'a/../../b', 'C:\\a', '\\\\host\\a', '..\\a', 'a\0b'])
def test_names_stay_in_their_folder(name, tmp_path):
    with pytest.raises(InputError, match='outside'):
        relative_name(name, tmp_path)


def test_thirty_thousand_names(tmp_path):
    """Folders are listed once, not for each name."""
    names = [f'image {number}' for number in range(30_000)]
    (tmp_path / 'list.txt').write_text('\n'.join(names))
    for name in names[:3]:
        (tmp_path / f'{name}.jpg').touch()
    with pytest.raises(InputError, match=r'29997 of 30000 images listed are not in .*: image 3, image 4'):
        NamedFiles(tmp_path).find_all(read_names(tmp_path / 'list.txt'), 'listed')
