"""The folder of a reader, who has what the page asks for and nothing else."""

from __future__ import annotations

import shutil

import pytest

from . import things


@pytest.fixture(scope='session')
def kit(tmp_path_factory):
    """``kit('photos')`` is made once; ``kit.cache`` has tiny weights under published names."""
    root = tmp_path_factory.mktemp('reader')
    things.fill_cache(root / 'cache')

    def get(name):
        folder = root / name.replace('/', '_')  # of its own: a thing may be several files
        if not folder.is_dir():
            (folder / name).parent.mkdir(parents=True)
            things.THINGS[name](folder / name)
        return folder

    get.cache = root / 'cache'
    return get


@pytest.fixture
def reader(kit, tmp_path, monkeypatch):
    """``reader('street.jpg photos')`` makes the current folder one that has these.  There is no network."""

    def start(names):
        folder = tmp_path / 'folder'
        folder.mkdir()
        for name in names.split():
            shutil.copytree(kit(name), folder, dirs_exist_ok=True)
        monkeypatch.chdir(folder)
        monkeypatch.setenv('HOME', str(tmp_path))
        monkeypatch.setenv('CLIPDENSE_CACHE', str(kit.cache))
        monkeypatch.setenv('CLIPDENSE_OFFLINE', '1')
        monkeypatch.syspath_prepend(str(folder))

    return start
