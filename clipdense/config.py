"""Read a config by name or path, and replace entries of it; no runner is needed.

Configs are Python files in MMEngine's style.  Those that come with clipdense are in ``configs/`` of a
checkout and in ``clipdense.configs`` of an installed wheel.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.utils import get_object_from_string

from clipdense.utils.errors import InputError, nearest

_PACKAGE = Path(__file__).resolve().parent
_HOME = _PACKAGE if (_PACKAGE / 'configs').is_dir() else _PACKAGE.parent  # of configs: a wheel, a checkout
_SUFFIXES = ('.py', '.json', '.yaml', '.yml')
_WORDS = {'true': True, 'false': False, 'none': None, 'null': None}


def load_config(
    config: str | Path | Config,
    options: Sequence[str] | Mapping[str, Any] = (),
    settings: Mapping[str, Collection[str]] | None = None,
) -> Config:
    """Read a config and replace entries of it.

    Args:
        config: a file, a name as in ``configs/`` (``contrastive/clip_scenes``), or a config, which is copied.
        options: ``['key.of.entry=value', ...]`` or a dict, replacing entries of the config.
        settings: names that a part without ``type`` may have, by the dotted name of the part ('' for the
            whole config); parts that are not listed may have any.

    Raises:
        InputError: no such file, a mistake in it, or an option that does not fit the config.
    """
    cfg = config.copy() if isinstance(config, Config) else _read_config(_find_config(config))
    values = dict(options) if isinstance(options, Mapping) else parse_options(options)
    for key in values:
        _check_option(cfg, key, settings or {})
    try:
        cfg.merge_from_dict(values)
    except Exception as error:
        raise InputError(f'invalid options for {_name(cfg)}: {error}') from error
    return cfg


def part_class(part: Mapping[str, Any] | None) -> Any:
    """The class or function that builds a part of a config, also for configs saved as text.

    Returns:
        A class or function, or None where there is none.
    """
    kind = (part or {}).get('type')
    return kind if kind is None or callable(kind) else get_object_from_string(kind)


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """``['a.b=1e-3', 'c=[1,2]', 'd=word']`` -> values by dotted key; others than literals are text.

    Raises:
        InputError: an option without '='.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition('=')
        if not equals or not key.strip():
            raise InputError(f'option {option!r} must have the form name=value')
        try:
            value = (
                _WORDS[text.strip().lower()]
                if text.strip().lower() in _WORDS
                else ast.literal_eval(text.strip())
            )
        except (ValueError, SyntaxError):
            value = text
        parsed[key.strip()] = value
    return parsed


def argument_names(builder: Callable[..., Any]) -> set[str] | None:
    """Names of the arguments that a config can give to a class or function; None if it accepts any name."""
    parameters = inspect.signature(builder).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters} - {'self', 'runner'}


def plain_config(value: Any, strict: bool = False) -> Any:
    """Entries of a config as plain data, classes and functions as dotted names.

    Args:
        value: a config, or a part of one.
        strict: raise for objects, instead of inserting a placeholder.

    Raises:
        InputError: with ``strict``, an object.
    """
    if isinstance(value, Mapping):
        return {str(key): plain_config(item, strict) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain_config(item, strict) for item in value)
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if hasattr(value, '__qualname__'):
        return f'{value.__module__}.{value.__qualname__}'
    if strict:
        raise InputError(f'the config contains a {type(value).__name__}, which is not plain data')
    return f'<{type(value).__name__}>'


def _name(cfg: Config) -> str:
    return str(cfg.filename or 'the config')


def _find_config(config: str | Path) -> Path:
    path = Path(config).expanduser()
    if path.is_file() and path.suffix in _SUFFIXES:
        return path
    if path.is_file():
        raise InputError(f'{path} is not a config file; its name must end in {", ".join(_SUFFIXES)}')
    folder = _HOME / 'configs'
    files = {str(file.relative_to(folder)): file for file in sorted(folder.rglob('*.py'))}
    known = {name.removesuffix('.py'): file for name, file in files.items() if not name.startswith('_')}
    wanted = str(config).removeprefix('configs/').removesuffix('.py')
    ends = [name for name in known if name == wanted or name.endswith(f'/{wanted}')]
    if len(ends) == 1:
        return known[ends[0]]
    if ends:
        raise InputError(f'the config name {wanted!r} is ambiguous; use {" or ".join(ends)}')
    beside = {file.stem: file for file in path.parent.glob('*') if file.suffix in _SUFFIXES}
    close = difflib.get_close_matches(path.stem, beside, n=1, cutoff=0.7)
    hint = f' Did you mean {str(beside[close[0]])!r}?' if close else nearest(wanted, known)
    raise InputError(f'the config {str(config)!r} does not exist.{hint}')


def _read_config(path: Path) -> Config:
    try:
        with _configs_by_name():
            cfg = Config.fromfile(path)
        for _ in _entries(cfg):  # imports what it names
            pass
    except SyntaxError as error:
        raise InputError(f'{path}, line {error.lineno}: {error.msg}') from error
    except Exception as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        if 'from ..' in reason:  # a copy of a config, away from its bases
            reason += '; a config of your own says `from clipdense.configs.FOLDER.NAME import *` there'
        raise InputError(f'cannot read the config {path}: {reason}') from error
    return cfg


@contextmanager
def _configs_by_name() -> Iterator[None]:
    """``from clipdense.configs.vild.vild_coco import *`` finds the config from anywhere.

    MMEngine finds the package of such a base by a function that needs ``pkg_resources``, which setuptools
    no longer has, and that does not find editable installs; it can only be replaced by its name.
    """
    find = mmengine_config.get_installed_path
    mmengine_config.get_installed_path = lambda name: str(_HOME) if name == 'clipdense' else find(name)
    try:
        yield
    finally:
        mmengine_config.get_installed_path = find


def _entries(part: Any) -> Iterator[Any]:
    values = part.values() if isinstance(part, Mapping) else part if isinstance(part, (list, tuple)) else ()
    if isinstance(part, Config):
        values = [value for _, value in part.items()]
    for value in values:
        yield value
        yield from _entries(value)


def _check_option(cfg: Config, key: str, settings: Mapping[str, Collection[str]]) -> None:
    """An option must be an existing entry, or an argument of the class that the part builds."""
    part: Any = cfg
    *parents, last = key.split('.')
    for depth, name in enumerate(parents):
        inside = _child(part, name)
        if inside is None:
            missing = '.'.join(parents[: depth + 1])
            raise InputError(
                f'option {key}: the config has no entry {missing!r}.{nearest(name, _names(part))}'
            )
        part = inside
    if _child(part, last) is not None or (isinstance(part, Mapping | Config) and last in part):
        return
    accepted = _accepted(part, settings.get('.'.join(parents)))
    if accepted is not None and last not in accepted:
        known = [*_names(part), *accepted]
        raise InputError(f'option {key}: unknown entry {last!r}.{nearest(last, known)}')


def _child(part: Any, name: str) -> Any:
    if isinstance(part, (list, tuple)):
        return part[int(name)] if name.isdigit() and int(name) < len(part) else None
    return part.get(name) if isinstance(part, (Mapping, Config)) else None


def _names(part: Any) -> list[str]:
    return list(part.keys()) if isinstance(part, (Mapping, Config)) else []


def _accepted(part: Any, settings: Collection[str] | None) -> Collection[str] | None:
    """Names of settings that a part may have; None if any."""
    if not isinstance(part, (Mapping, Config)):
        return ()
    kind = part.get('type')
    if isinstance(part, Config) or kind is None:
        return settings
    return None if isinstance(kind, str) else argument_names(kind)
