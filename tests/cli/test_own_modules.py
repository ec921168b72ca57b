"""Classes of one's own: ``--import``, modules beside the config, and ``custom_imports``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clipdense.cli.app import main
from clipdense.config import load_config

MODULE = "raise_it = 1\nopen('imported', 'w').close()\n"


def run(capsys, *arguments: str) -> tuple[int, str]:
    """Exit status and standard error of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code or 0, capsys.readouterr().err


@pytest.fixture
def own(apart, monkeypatch):
    """A folder with a module and configs of one's own."""
    monkeypatch.setattr(sys, 'path', list(sys.path))
    for name in ('beside_it', 'named_by_it'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    folder = Path('mine')
    folder.mkdir()
    (folder / 'beside_it.py').write_text(MODULE)
    (folder / 'config.py').write_text('model = 1\n')
    return folder


def test_a_module_beside_the_config_is_imported(capsys, own):
    run(capsys, 'train', 'mine/config.py', '--import', 'beside_it', '--work-dir', 'runs')
    assert Path('imported').exists()


def test_a_module_that_fails_is_named(capsys, own):
    status, err = run(capsys, 'train', 'mine/config.py', '--import', 'no_such_module')
    assert (status, '--import no_such_module: ModuleNotFoundError' in err) == (2, True)
    (own / 'beside_it.py').write_text('1 / 0')
    status, err = run(capsys, 'train', 'mine/config.py', '--import', 'beside_it')
    assert (status, '--import beside_it: ZeroDivisionError' in err) == (2, True)


def test_custom_imports_beside_read_base(own, monkeypatch):
    monkeypatch.syspath_prepend(str(own))
    (own / 'config.py').write_text(
        'from mmengine.config import read_base\n'
        'with read_base():\n'
        '    from clipdense.configs.contrastive.clip_scenes import *\n'
        "custom_imports = dict(imports=['beside_it'], allow_failed_imports=False)\n"
    )
    load_config(own / 'config.py')
    assert Path('imported').exists()
