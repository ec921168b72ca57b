"""Configs in YAML and JSON, which are data: reading one never runs code.

YAML is read with the safe tags only, size, depth and aliases are bounded, and ``type`` may name registered
classes only (see ``types``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from clipdense.utils.errors import InputError
from clipdense.utils.files import regular_file
from clipdense.utils.json_files import parse_json

from .merging import copied, merge
from .names import MAX_BYTES, SUFFIXES
from .types import resolve_types

_MAX_YAML_BYTES = 200_000  # its parser needs a second for 100 kB
MAX_ENTRIES = 100_000  # of one file, with aliases written out
MAX_DEPTH = 50
_MAX_BASES = 10  # of bases one inside another
_VARIABLE = re.compile(r'\{\{\s*[\'"]?\s*(\$\w+|file[A-Z]\w*|_base_\.[\w.]+)')
_READ_AS_CODE = ('.py', '.pkl', '.pickle', '.yaml', '.yml')  # by readers that others registered


class _Loader(yaml.SafeLoader):
    """Safe tags only, each key once, and 1e-3 is a number, as in YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != 'tag:yaml.org,2002:merge':
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key {key.value!r} is there twice', key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?\d+(\.\d*)?[eE][-+]?\d+$'), list('-+0123456789')
)


def read_data_config(
    path: str | Path, included: Callable[[str], dict | None], outer: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Read a YAML or JSON config and those that its ``_base_`` names.

    Args:
        path: of the file.
        included: name -> the entries of the config that comes with clipdense, or None.
        outer: the files that name this one as their base.

    Raises:
        InputError: the file cannot be read, is too large or nested too deeply, or has an entry that would
            run code: a tag of YAML, a ``type`` that is not registered, ``custom_imports``, a ``.py`` base.
    """
    path = regular_file(path)
    path = regular_file(path, MAX_BYTES if path.suffix == '.json' else _MAX_YAML_BYTES)
    if path.resolve() in outer or len(outer) > _MAX_BASES:
        raise InputError(f'{path}: _base_ names the file itself, or more than {_MAX_BASES} files in a row')
    entries = _parse(path)
    bases = entries.pop('_base_', [])
    try:
        check_data(entries)
        entries = resolve_types(entries)
        cfg: dict[str, Any] = {}
        for base in bases if isinstance(bases, list) else [bases]:
            merge(cfg, _base(path, base, included, (*outer, path.resolve())))
        merge(cfg, entries)
    except InputError as error:
        raise InputError(f'{path}: {error}' if str(path) not in str(error) else str(error)) from error
    return cfg


def check_data(entries: Mapping[str, Any]) -> None:
    """Check entries that come from a file: plain data, and no value that a class would run or read as code.

    Raises:
        InputError: the first such value, with its dotted name.
    """
    for where, value in _values(entries):
        _check_value(where, value)


def _base(path: Path, base: Any, included: Callable[[str], dict | None], outer: tuple[Path, ...]) -> dict:
    if not isinstance(base, str):
        raise InputError(f'_base_ must be a file name or a list of them, got {base!r}')
    file = path.parent / Path(base).expanduser()
    if file.suffix in SUFFIXES:
        return read_data_config(file, included, outer)
    ours = included(base) if file.suffix != '.py' else None
    if ours is None:
        raise InputError(
            f'_base_ {base!r} must be a {", ".join(SUFFIXES)} file or the name of an included config, as in '
            "'contrastive/clip_scenes'; a .py file is code: a config that builds on one is a .py file too"
        )
    return copied(ours)


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text('utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'cannot read the config {path}: {error}') from error
    found = _VARIABLE.search(text)
    if found:
        raise InputError(
            f'{path}: {found[0]}...}}}} is not substituted in YAML and JSON configs: write the value, '
            'or set it with -o NAME=VALUE'
        )
    value = parse_json(text, path) if path.suffix == '.json' else _parse_yaml(text, path)
    if not isinstance(value, dict):
        kind = 'empty' if value is None else f'a {type(value).__name__}'
        raise InputError(f'{path} is {kind}; a config is a mapping of names such as model and train_cfg')
    _check_size(value, path)
    return value


def _parse_yaml(text: str, path: Path) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f', line {mark.line + 1}' if mark else ''
        problem = error.problem or error.context or 'not YAML'
        if 'could not determine a constructor' in problem:
            tag = problem.rpartition(' ')[2].replace('tag:yaml.org,2002:', '!!')
            problem = f'the tag {tag} is not allowed, only plain data; name a class with type:'
        raise InputError(f'{path}{line}: {" ".join(problem.split())}') from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise InputError(f'{path} is not valid YAML: {" ".join(str(error).split())}') from error
    except (RecursionError, MemoryError) as error:
        raise InputError(f'{path} is nested too deeply; at most {MAX_DEPTH} levels') from error


def _check_size(value: Any, path: Path) -> None:
    """Refuse aliases that write out to too many entries, or that contain themselves, and deep nesting.

    Entries that several aliases share are counted once for each, and visited once.
    """
    counts: dict[int, int] = {}

    def count(part: Any, depth: int) -> int:
        if not isinstance(part, dict | list):
            return 1
        if depth > MAX_DEPTH:
            raise InputError(f'{path} is nested too deeply, or contains itself; at most {MAX_DEPTH} levels')
        if id(part) not in counts:
            inner = part.values() if isinstance(part, dict) else part
            counts[id(part)] = 1 + sum(count(one, depth + 1) for one in inner)
        return counts[id(part)]

    total = count(value, 1)
    if total > MAX_ENTRIES:
        raise InputError(
            f'{path} has {total:.3g} entries, with its aliases written out; at most {MAX_ENTRIES}'
        )


def _values(part: Any, where: str = '') -> Iterator[tuple[str, Any]]:
    """All values with their dotted names."""
    items = part.items() if isinstance(part, Mapping) else enumerate(part)
    for key, value in items:
        if not isinstance(key, str | int) or (isinstance(part, Mapping) and not isinstance(key, str)):
            raise InputError(f'{where or "the config"} has the key {key!r}; keys are text: put it in quotes')
        inner = f'{where}.{key}' if where else str(key)
        yield inner, value
        if isinstance(value, Mapping | list | tuple):
            yield from _values(value, inner)


def _check_value(where: str, value: Any) -> None:
    """Refuse values that a registered class would run or read as code."""
    if value != value:
        raise InputError(f'{where} is NaN, not a number')
    if not isinstance(value, str | int | float | bool | list | tuple | dict | None):
        raise InputError(f'{where} is a {type(value).__name__}, {value}: put it in quotes to have text')
    if isinstance(value, str):
        _check_text(where, value)


def check_option_value(where: str, value: Any) -> None:
    """Refuse texts in an option of a safe config that would be run or read as code.

    Raises:
        InputError: with the name of the option.
    """
    if isinstance(value, str):
        _check_text(where, value)
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            check_option_value(where, inner)


def _check_text(where: str, value: str) -> None:
    if value.strip().lower().endswith(_READ_AS_CODE):
        raise InputError(
            f'{where}: {value!r} would be read as code, which YAML, JSON and --safe-config do not allow; '
            'write the config as a .py file'
        )
    scheme = value.partition(':')[0] if ':' in value else ''
    is_url = 'urls' in where.split('.')
    if scheme.strip().lower() == 'pipe' or (is_url and '{' in scheme):
        raise InputError(
            f'{where}: {value!r} runs a command, which YAML, JSON and --safe-config do not allow; '
            'write the config as a .py file'
        )
