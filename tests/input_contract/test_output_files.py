"""The table below "Output files" of docs/input_contract.md."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket

import numpy as np
import pytest
from PIL import Image

from clipdense.inference.results import write_image, write_json
from clipdense.utils.errors import InputError, printable
from clipdense.utils.files import atomic_write, check_outputs
from clipdense.utils.image_files import list_images, output_stems

SECTION = 'Output files'


def _write(path, overwrite=False, inputs=(), text='new'):
    check_outputs([path], overwrite, inputs)
    with atomic_write(path, 'w') as file:
        file.write(text)
    assert path.read_text() == text
    assert [one for one in path.resolve().parent.iterdir() if one.suffix == '.tmp'] == []


def _existing(folder, name='out.json'):
    (folder / name).write_text('old')
    return folder / name


def _link(folder, target, name='link.json'):
    (folder / name).symlink_to(target)
    return folder / name


def _through_link(folder):
    link = _link(folder, _existing(folder))
    _write(link, overwrite=True)
    assert link.is_symlink()
    assert (folder / 'out.json').read_text() == 'new'


def _special(folder):
    os.mkfifo(folder / 'pipe')
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / 'socket'))  # the length of an address is limited
    for path in (folder / 'pipe', folder / 'socket', _link(folder, folder / 'pipe')):
        for write in (
            lambda path: write_json(path, []),
            lambda path: write_image(path, Image.new('RGB', (1, 1))),
            lambda path: _write(path, overwrite=True),
        ):
            with contextlib.suppress(InputError):
                write(path)
                pytest.fail(f'{path} was written')
        assert not path.is_file()
    check_outputs([folder / 'pipe'], overwrite=True)


def _inputs(folder):
    image = _existing(folder, 'photo.png')
    for path in (image, folder / '.' / 'photo.png', _link(folder, image)):
        with contextlib.suppress(InputError):
            check_outputs([path], overwrite=True, inputs=[None, 'ViT-B-16/openai', image])
            pytest.fail(f'{path} would be replaced')
    assert image.read_text() == 'old'
    check_outputs([image], overwrite=True, inputs=[image])


def _full(folder):
    path, large = _existing(folder), np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for write in (write_json, lambda path, _: write_image(path, Image.fromarray(large))):
            with pytest.raises(InputError, match='no space'):
                write(path, list(range(1000)))
            assert path.read_text() == 'old'
            assert [one.name for one in folder.iterdir()] == ['out.json']
        write_json(path, list(range(1000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _same_name(folder):
    for name in ('a', 'b'):
        (folder / name).mkdir()
        (folder / name / '1.png').touch()
    assert output_stems(list_images(folder)) == ['a_1', 'b_1']


def _odd_names(folder):
    names = [b'caf\xe9.png', b'a\nb.png', b'\x1b[31m.png', b'\xff\xfe.png']
    for name in names:
        with open(os.path.join(os.fsencode(folder), name), 'wb'):
            pass
    paths = list_images(folder)
    assert {os.fsencode(path.name) for path in paths} == set(names)
    stems = output_stems(paths)
    assert len(set(stems)) == 4
    for path, stem in zip(paths, stems, strict=True):
        assert printable(path).isprintable()
        write_json(folder / f'{stem}.json', {'image': str(path)})
        assert os.fsencode(json.loads((folder / f'{stem}.json').read_text('utf-8'))['image']) == bytes(path)


def _long_name(folder):
    names = ['x' * 251, '日' * 83, '😀' * 62]
    for name in names:
        (folder / f'{name}.png').touch()
    for stem in output_stems(list_images(folder)):
        write_json(folder / f'{stem}_overlay.png', [])
    write_json(folder / ('y' * 250 + '.json'), [])


READ = {
    'new file in a new folder': lambda folder: _write(folder / 'a' / 'b' / 'out.json'),
    'existing file': lambda folder: _write(_existing(folder)),
    'existing file, with `--overwrite`': lambda folder: _write(_existing(folder), overwrite=True),
    'link to a file, with `--overwrite`': _through_link,
    'link to a missing file': lambda folder: _write(_link(folder, folder / 'new.json')),
    'folder as a file': lambda folder: _write(folder, overwrite=True),
    'device, named pipe or socket, with `--overwrite`': _special,
    'link to a device, with `--overwrite`': lambda folder: _write(_link(folder, '/dev/null'), overwrite=True),
    'one of the inputs, with `--overwrite`': _inputs,
    'file as output folder': lambda folder: _write(_existing(folder) / 'out.json'),
    'folder that cannot be written to': lambda folder: write_json('/proc/none/out.json', []),
    'full disk, or a limit of the size of files': _full,
    'images of the same name in two folders': _same_name,
    'image name that is not UTF-8 or contains line breaks': _odd_names,
    'image name of 255 bytes': _long_name,
}


def test_row(row, check):
    check(row, READ)
