"""Importing by name, with the reason where it fails."""

from __future__ import annotations

import sys

import pytest

from clipdense.utils.errors import InputError, MissingPackage
from clipdense.utils.packages import imported_object, missing_package


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package with modules that cannot be imported."""
    folder = tmp_path / 'owntower'
    folder.mkdir()
    (folder / '__init__.py').write_text('')
    (folder / 'good.py').write_text('class Tower:\n    size = 3\n')
    (folder / 'needs.py').write_text('import supervision_of_nobody.parts\n')
    (folder / 'broken.py').write_text('raise RuntimeError("the disk\\nis gone")\n')
    (folder / 'old.py').write_text('from math import no_such_function\n')
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition('.')[0] == 'owntower']:
        del sys.modules[name]


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('owntower.good.Tower.size', 3),
        ('owntower.good.Mast', None),
        ('owntower.nothing.Tower', None),
        ('no_such_package.Tower', None),
        ('no_such_package', None),
        ('', None),
        ('owntower..good', None),
    ],
)
def test_objects_by_name(own, name, expected):
    assert imported_object(name) == expected


@pytest.mark.parametrize(
    ('name', 'kind', 'message'),
    [
        (
            'owntower.needs.Tower',
            MissingPackage,
            'owntower.needs cannot be imported: supervision-of-nobody is not installed: pip install ',
        ),
        ('owntower.broken.Tower', InputError, 'owntower.broken cannot be .*: RuntimeError: the disk is gone'),
        ('owntower.old.Tower', InputError, "ImportError: cannot import name 'no_such_function'"),
    ],
)
def test_the_reason_is_told(own, name, kind, message):
    with pytest.raises(kind, match=message):
        imported_object(name)


@pytest.mark.parametrize(
    ('module', 'message'),
    [
        ('supervision.detection', "supervision is not installed: pip install 'clipdense[viz]'"),
        ('cv2', 'opencv-python is not installed: pip install opencv-python'),
        ('no_such', 'no-such is not installed: pip install no-such'),
    ],
)
def test_a_missing_package_names_its_extra(module, message):
    assert missing_package(module) == message
