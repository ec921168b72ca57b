"""Importing by name, with the reason where it fails."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

from .errors import InputError, MissingPackage, one_line

_IMPORTED_AS = {  # packages of other names
    'PIL': 'Pillow',
    'cv2': 'opencv-python',
    'mmcv': 'mmcv-lite',
    'open_clip': 'open_clip_torch',
    'skimage': 'scikit-image',
}


def imported_object(name: str) -> Any:
    """The object of a dotted name, ``'package.module.Class'``; None where there is none.

    Raises:
        MissingPackage: one of its modules needs a package that is not installed.
        InputError: one of its modules cannot be imported.
    """
    parts = name.split('.')
    if not all(parts):
        return None
    found: Any = None
    for end in range(1, len(parts) + 1):
        module = '.'.join(parts[:end])
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if f'{module}.'.startswith(f'{error.name}.') and '; None in sys.modules' not in str(error):
                return _attribute(found, parts[end - 1 :]) if end > 1 else None
            missing = missing_package(error.name or str(error))
            raise MissingPackage(f'{module} cannot be imported: {missing}') from error
        except InputError:
            raise
        except Exception as error:
            kind = type(error).__name__
            raise InputError(f'{module} cannot be imported: {kind}: {one_line(error)[:300]}') from error
    return found


def missing_package(module: str) -> str:
    """What to install for a module that cannot be imported, with the extra that has it."""
    first = module.partition('.')[0]
    package = _IMPORTED_AS.get(first, first.replace('_', '-'))
    try:
        lines = requires('clipdense') or []
    except PackageNotFoundError:
        lines = []
    for line in lines:
        extra = re.search(r'extra == ["\']([\w-]+)["\']', line)
        if extra and re.match(r'[\w.-]+', line)[0].replace('_', '-').lower() == package.lower():  # type: ignore[index]
            return f"{package} is not installed: pip install 'clipdense[{extra[1]}]'"
    return f'{package} is not installed: pip install {package}'


def _attribute(found: Any, names: list[str]) -> Any:
    for name in names:
        found = getattr(found, name, None)
    return found
