"""Names of config files, without reading them."""

from __future__ import annotations

import difflib
from pathlib import Path

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import regular_file

_PACKAGE = Path(__file__).resolve().parents[1]
SUFFIXES = ('.json', '.yaml', '.yml')  # of configs that are data, not code
MAX_BYTES = 1_000_000  # of one file; a config has a few thousand
_ANY = ('.py', *SUFFIXES)
HOME = _PACKAGE if (_PACKAGE / 'configs').is_dir() else _PACKAGE.parent  # of configs: a wheel, a checkout


def find_config(config: str | Path) -> Path:
    """The file of a config.

    Raises:
        InputError: there is none, with the nearest name, or it is not a config file.
    """
    path = Path(config).expanduser()
    if path.suffix in _ANY and path.exists() and not path.is_dir():
        return regular_file(path, MAX_BYTES)
    if path.is_file():
        raise InputError(f'{path} is not a config file; its name must end in {", ".join(_ANY)}')
    known = included_configs()
    wanted = str(config).removeprefix('configs/').removesuffix('.py')
    ends = [name for name in known if name == wanted or name.endswith(f'/{wanted}')]
    if len(ends) == 1:
        return known[ends[0]]
    if ends:
        raise InputError(f'the config name {wanted!r} is ambiguous; use {" or ".join(ends)}')
    inside = [name for name in known if name.startswith(f'{wanted.rstrip("/")}/')]
    if inside:
        raise InputError(f'{str(config)!r} is a folder of configs; use {", ".join(inside)}')
    beside = {file.stem: file for file in path.parent.glob('*') if file.suffix in _ANY}
    close = difflib.get_close_matches(path.stem, beside, n=1, cutoff=0.7)
    hint = f' Did you mean {str(beside[close[0]])!r}?' if close else nearest(wanted, known)
    raise InputError(
        f'the config {str(config)!r} does not exist.{hint} `clipdense configs` lists the included ones'
    )


def refuse_code(path: Path) -> None:
    """Refuse a config that is code, unless it is an included one.

    Raises:
        InputError: it is a ``.py`` file of somebody's own.
    """
    if path.suffix == '.py' and not path.resolve().is_relative_to((HOME / 'configs').resolve()):
        raise InputError(
            f'{path} is a .py config, which is code, and --safe-config (safe=True) refuses those: '
            'use a YAML or JSON config, or the name of an included one'
        )


def included_configs() -> dict[str, Path]:
    """The configs that come with clipdense, by name."""
    folder = HOME / 'configs'
    files = {str(file.relative_to(folder)): file for file in sorted(folder.rglob('*.py'))}
    return {name.removesuffix('.py'): file for name, file in files.items() if not name.startswith('_')}
