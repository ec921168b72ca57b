"""Regular files only, whatever a path names."""

from __future__ import annotations

import os
import socket

import pytest

from clipdense.utils.errors import InputError
from clipdense.utils.files import check_new_folder, regular_file, special_file


def test_a_file_and_a_link_to_it(tmp_path):
    (tmp_path / 'a.txt').write_text('x')
    (tmp_path / 'link').symlink_to('a.txt')
    assert regular_file(str(tmp_path / 'a.txt')) == tmp_path / 'a.txt'
    assert regular_file(tmp_path / 'link', max_bytes=1) == tmp_path / 'link'
    assert special_file(tmp_path / 'link') == special_file(tmp_path / 'missing') == ''


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # the length of an address is limited


def make_link_to_folder(path):
    path.symlink_to(path.parent)


def make_loop(path):
    path.symlink_to(path.name)


def make_dangling_link(path):
    path.symlink_to('elsewhere')


@pytest.mark.parametrize(
    ('make', 'said'),
    [
        (os.mkdir, 'is a folder'),
        (make_link_to_folder, 'is a folder'),
        (make_fifo, r'is a named pipe \(FIFO\)'),
        (make_socket, 'is a socket'),
        (make_loop, 'symbolic links'),
        (make_dangling_link, 'is a link to elsewhere, which does not exist'),
        (lambda path: path.with_name('itm').touch(), "does not exist. Did you mean 'itm'"),
        (lambda path: path.write_bytes(bytes(2_000_001)), 'too large: 2 MB, the limit is 1 MB'),
    ],
)
def test_refused_without_opening(tmp_path, monkeypatch, make, said):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / 'item')
    with pytest.raises(InputError, match=said):
        regular_file(tmp_path / 'item', max_bytes=1_000_000)


@pytest.mark.parametrize(
    ('path', 'said'),
    [
        ('/dev/zero', 'is a device'),
        ('', 'is a folder'),
        ('a\0b', 'null byte'),
        ('x' * 5000, 'File name too long'),
        (__file__ + '/x', 'Not a directory'),
        ('~no-such-user/x', 'home directory'),
    ],
)
def test_strange_paths(path, said):
    with pytest.raises(InputError, match=said):
        regular_file(path)


@pytest.mark.parametrize(
    ('overwrite', 'inputs', 'said'),
    [
        (True, ['a/b.png'], 'contains the input'),
        (True, ['.'], 'contains the input'),
        (False, [], 'is not empty'),
    ],
)
def test_a_folder_that_is_not_new(tmp_path, overwrite, inputs, said):
    (tmp_path / 'x.png').touch()
    with pytest.raises(InputError, match=said):
        check_new_folder(tmp_path, overwrite, [tmp_path / one for one in inputs])
    check_new_folder(tmp_path, overwrite=True)
    check_new_folder(tmp_path / 'new', overwrite=False)
