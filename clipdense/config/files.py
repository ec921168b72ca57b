"""Find and read config files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.utils import import_modules_from_strings

from clipdense.utils.errors import InputError

from .data_files import check_option_value, read_data_config
from .merging import copied, merge, nested
from .names import HOME, SUFFIXES, find_config, included_configs, refuse_code
from .options import check_option
from .texts import parse_options
from .types import resolve_entry
from .variables import restore, substitute


def load_config(
    config: str | Path | Config,
    options: Sequence[str] | Mapping[str, Any] = (),
    settings: Mapping[str, Collection[str]] | None = None,
    safe: bool = False,
) -> Config:
    """Read a config and replace entries of it.

    Reading a ``.py`` config runs it.  A YAML or JSON config is data, and names registered classes only.

    Args:
        config: a file, a name as in ``configs/`` (``contrastive/clip_scenes``), or a config, which is copied.
        options: ``['key.of.entry=value', ...]`` or a dict, replacing entries of the config.
        settings: names that a part without ``type`` may have, by the dotted name of the part ('' for the
            whole config); parts that are not listed may have any.
        safe: refuse ``.py`` files other than the included configs, and options that would run a command; this
            holds for copies of the config as well.

    Raises:
        InputError: no such file, a mistake in it, or an option that does not fit the config.
    """
    source = config if isinstance(config, Config) else _read(find_config(config), safe)
    cfg = Config(copied(source._cfg_dict), cfg_text=' ', filename=source.filename)
    object.__setattr__(cfg, '_imported_names', source._imported_names)
    safe = safe or getattr(source, '_safe', False)
    object.__setattr__(cfg, '_safe', safe)
    restore(cfg._cfg_dict, getattr(source, '_references', {}))
    values = dict(options) if isinstance(options, Mapping) else parse_options(options)
    for key in sorted(values, key=lambda key: not key.endswith('.type')):  # new classes have new options
        check_option(cfg, key, settings or {})
        if safe:
            check_option_value(f'option {key}', values[key])
        values[key] = resolve_entry(key.rpartition('.')[2], values[key], f'option {key}')
        if key.endswith('.type'):
            merge(cfg._cfg_dict, nested({key: values[key]}))
    merge(cfg._cfg_dict, nested(values))
    object.__setattr__(cfg, '_references', substitute(cfg._cfg_dict))
    return cfg


def config_name(config: str | Path | Config) -> str:
    """What to call a config in a message: its file."""
    return str(config.filename or 'the config') if isinstance(config, Config) else str(config)


def _read(path: Path, safe: bool) -> Config:
    if path.suffix in SUFFIXES:
        entries = read_data_config(path, _included_entries)
        return Config(copied(entries), cfg_text=' ', filename=str(path))
    if safe:
        refuse_code(path)
    return _read_python(path)


def _included_entries(name: str) -> dict[str, Any] | None:
    """The entries of a config that comes with clipdense, without what it imports."""
    path = included_configs().get(name)
    if path is None:
        return None
    cfg = _read_python(path)
    return {key: value for key, value in dict.items(cfg._cfg_dict) if key not in cfg._imported_names}


def _read_python(path: Path) -> Config:
    try:
        with _configs_by_name():
            cfg = Config.fromfile(path)
        if own := cfg.get('custom_imports'):  # which MMEngine ignores in a config with ``read_base``
            import_modules_from_strings(**own)
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
    mmengine_config.get_installed_path = lambda name: str(HOME) if name == 'clipdense' else find(name)
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
