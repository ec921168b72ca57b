"""The layout of vocabulary files, in YAML and JSON, and the vocabulary in a file of class embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import atomic_write, regular_file
from clipdense.utils.json_files import parse_json

_KEYS = ('classes', 'background', 'negatives', 'templates', 'novel')
_CLASS_KEYS = ('name', 'synonyms', 'threshold', 'examples')
_BACKGROUND = 'background'
_MAX_TEXT = 4_000_000  # characters of YAML


def is_vocabulary(value: Mapping[str, Any]) -> bool:
    """Whether entries of a file have the layout of a vocabulary, not that of another list of classes."""
    if not isinstance(value.get('classes'), list):
        return False
    described = any(isinstance(one, Mapping) and 'id' not in one for one in value['classes'])
    return (
        described
        or not {*value}.isdisjoint(_KEYS[1:])
        or any(nearest(str(key), _KEYS) for key in value if key != 'classes')
    )


def from_entries(value: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a vocabulary file -> the fields of ``Vocabulary.from_dict``.

    Raises:
        InputError: an unknown key, or an entry of another kind; named.
    """
    _check_keys(value, _KEYS, 'the vocabulary')
    names: list[str] = []
    synonyms: dict[str, list[str]] = {}
    thresholds: dict[str, Any] = {}
    examples: dict[str, Any] = {}
    for number, entry in enumerate(value['classes'], 1):
        name, words, threshold = _class(entry, f'class {number}')
        names.append(name)
        if isinstance(entry, Mapping) and 'examples' in entry:
            examples[name] = entry['examples']
        if words:
            synonyms[name] = words
        if threshold is not None:
            thresholds[name] = threshold
    background, words = _background(value.get('background'))
    if background is not None:
        if background not in names:
            names.insert(0, background)
        if words:
            synonyms[background] = words
    templates = value.get('templates') or None
    if templates is not None and not isinstance(templates, str):
        templates = _texts(templates, 'templates')
    return {
        'class_names': names,
        'synonyms': synonyms,
        'background': background,
        'novel': _texts(value.get('novel'), 'novel'),
        'negatives': _texts(value.get('negatives'), 'negatives'),
        'thresholds': thresholds,
        'templates': templates,
        'examples': examples,
    }


def to_entries(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``from_entries``, for ``Vocabulary.to_dict``."""
    classes: list[Any] = []
    for name in fields['class_names']:
        words, threshold = fields['synonyms'].get(name), fields.get('thresholds', {}).get(name)
        entry: dict[str, Any] = {'name': name}
        if words and name != fields['background']:
            entry['synonyms'] = words
        if threshold is not None:
            entry['threshold'] = threshold
        if name in fields.get('examples', {}):
            entry['examples'] = fields['examples'][name]
        classes.append(entry if len(entry) > 1 else name)
    entries: dict[str, Any] = {'classes': classes}
    if fields['background'] is not None:
        words = fields['synonyms'].get(fields['background'])
        name = fields['background']
        entries['background'] = {'name': name, 'synonyms': words} if words else name
    entries.update({key: fields[key] for key in ('negatives', 'templates', 'novel') if fields.get(key)})
    return entries


def check_thresholds(values: Any) -> dict[str, float]:
    """Class name -> score.

    Raises:
        InputError: no mapping, or a score that is not a number of 0 to 1.
    """
    if not isinstance(values, Mapping):
        raise InputError(f'thresholds must be a dict of class name -> score, got {type(values).__name__}')
    found = {}
    for name, value in values.items():
        try:
            number = -1.0 if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = -1.0
        if not 0 <= number <= 1:
            raise InputError(f'the threshold of {name!r} must be a number from 0 to 1, got {value!r:.60}')
        found[name] = number
    return found


def parse_yaml(text: str, path: Path) -> Any:
    """Parse YAML; every scalar is a string, so that the names ``no``, ``on`` and ``1.0`` stay what they are.

    Raises:
        InputError: not YAML (with the line), a key that a mapping has twice, aliases, or nested too deeply.
    """
    if len(text) > _MAX_TEXT:
        raise InputError(f'{path} is too large for YAML: write the classes to a JSON or text file')
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
            raise InputError(f'{path} has a YAML alias (*name), which is not read: write the value itself')
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f', line {mark.line + 1}' if mark else ''
        raise InputError(f'{path}{line}: not valid YAML: {error.problem or error.context}') from error
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'{path} is not valid YAML: {" ".join(str(error).split())}') from error
    except (RecursionError, MemoryError) as error:
        raise InputError(f'{path} is nested too deeply to be read as YAML') from error


def write_yaml(path: Path, entries: Mapping[str, Any]) -> None:
    """Write entries that ``parse_yaml`` reads."""
    text = yaml.safe_dump(dict(entries), allow_unicode=True, sort_keys=False, width=1000)
    with atomic_write(path, 'w') as file:
        file.write(text)


def stored_vocabulary(path: Path) -> Mapping[str, Any]:
    """The fields of the vocabulary in a file of class embeddings.

    Raises:
        InputError: another file, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(regular_file(path), 'np') as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f'{path} cannot be read as safetensors: {error}') from error
    if 'vocabulary' not in metadata or 'text embeddings' not in metadata.get('format', ''):
        raise InputError(
            f'{path} is not a file of class embeddings (`clipdense embed` writes one), which has class names'
        )
    return parse_json(metadata['vocabulary'], f'the vocabulary in {path}')


class _Loader(getattr(yaml, 'CBaseLoader', yaml.BaseLoader)):  # type: ignore[misc]
    """Strings, lists and mappings with each key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, 'a key is no text', key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key {key.value!r} is there twice', key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _check_keys(value: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for key in value:
        if key not in known:
            raise InputError(
                f'unknown key {key!r} in {what}: use {", ".join(known)}.{nearest(str(key), known)}'
            )


def _class(entry: Any, what: str) -> tuple[str, list[str], Any]:
    """Name, synonyms and threshold of a class, given as its name, a list of names, or a mapping."""
    if isinstance(entry, str):
        return entry, [], None
    if isinstance(entry, list) and entry:
        name, *words = _texts(entry, what)
        return name, words, None
    if not isinstance(entry, Mapping) or 'name' not in entry:
        raise InputError(f'{what} must be a name, a list of names, or have a "name", got {entry!r:.60}')
    _check_keys(entry, _CLASS_KEYS, what)
    return entry['name'], _texts(entry.get('synonyms'), f'synonyms of {what}'), entry.get('threshold')


def _background(value: Any) -> tuple[str | None, list[str]]:
    """Name and queries of the background, given as its name, its queries, or a mapping of both."""
    if value is None or value == '':
        return None, []
    if isinstance(value, list):
        return _BACKGROUND, _texts(value, 'background')
    if isinstance(value, Mapping):
        _check_keys(value, _CLASS_KEYS[:2], 'background')
        return value.get('name', _BACKGROUND), _texts(value.get('synonyms'), 'synonyms of the background')
    return value, []


def _texts(value: Any, what: str) -> list[str]:
    if value is None or value == '':
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InputError(f'{what} must be a list of texts, got {value!r:.60}')
    return value
