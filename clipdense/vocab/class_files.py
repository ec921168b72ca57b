"""Files of class names: text with one class a line, and the JSON layouts that lists of classes come in."""

from __future__ import annotations

import codecs
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipdense.utils.errors import InputError
from clipdense.utils.files import regular_file
from clipdense.utils.json_files import read_json

from .names import check_name, doubts, normalize, unnumbered
from .vocabulary_files import from_entries, is_vocabulary, parse_yaml, stored_vocabulary

_MAX_BYTES = 64_000_000  # of a text file: a million names
_OTHER_FORMATS = {
    **dict.fromkeys(('.csv', '.tsv', '.xlsx', '.ods', '.parquet'), 'a table'),
    **dict.fromkeys(('.toml', '.xml'), 'a configuration file'),
    **dict.fromkeys(('.npy', '.npz', '.pt', '.pth', '.pkl'), 'a file of arrays'),
    **dict.fromkeys(('.jpg', '.jpeg', '.png', '.webp'), 'an image'),
}
CLASS_FILE_SUFFIXES = ('.txt', '.json', '.yaml', '.yml', '.names', '.list', '.safetensors', *_OTHER_FORMATS)
_LINE_END = re.compile(r'\r\n|\r|\n')
_HEADERS = ('class', 'class name', 'classes', 'id', 'idx', 'index', 'label', 'labels', 'name', 'names')
_ID = re.compile(r'[0-9]{1,9}')
_NAMES_KEYS = ('id2label', 'names', 'classes')  # Hugging Face's config.json, Ultralytics, label maps

Words = list[str]  # a class: its name, then synonyms


def read_class_file(path: str | Path) -> Mapping[str, Any] | list[Words]:
    """The classes of a file, or the fields of a saved vocabulary.

    Raises:
        InputError: not a regular file, too large, not UTF-8, or not in a known layout.

    Warns:
        UserWarning: the file is probably not meant as it was read (numbered lines, one line for all classes).
    """
    if not isinstance(path, str | Path):
        raise InputError(f'a file of class names must be given by its path, got {type(path).__name__}')
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in _OTHER_FORMATS:
        raise InputError(
            f'{path} is {_OTHER_FORMATS[suffix]} ({suffix}), not a class list: write the names to a text '
            'file, one class a line, or to a JSON list'
        )
    if suffix == '.safetensors':
        return stored_vocabulary(path)
    if suffix in ('.json', '.yaml', '.yml'):
        value = read_json(path) if suffix == '.json' else parse_yaml(read_text(path), path)
        try:
            classes = _from_json(value)
        except InputError as error:
            raise InputError(f'{path}: {error}') from error
        if isinstance(classes, list) and classes:
            for doubt in doubts([words[0] for words in classes], commas=True):
                warnings.warn(f'{path}: {doubt}', stacklevel=3)
        return classes
    return _from_text(read_text(path), path)


def read_text(path: str | Path) -> str:
    """The text of a list of names: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises:
        InputError: not a regular file, too large, or not UTF-8.
    """
    path = regular_file(path, _MAX_BYTES)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror or error}') from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode('utf-16' if wide else 'utf-8-sig')
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b'\n') + 1
        raise InputError(f'{path} is not UTF-8 text (line {line}); save it as UTF-8') from error


def skipped_lines(path: str | Path) -> list[int]:
    """Numbers of the blank lines and comments before the last name of a text list, from 1."""
    lines = [line.strip() for line in lines_of(read_text(path))]
    names = [number for number, line in enumerate(lines, 1) if line and not line.startswith('#')]
    return sorted(set(range(1, max(names, default=0) + 1)) - set(names))


def split_names(text: str, separator: str = ',') -> Words:
    """Split at separators that no backslash precedes; see ``unescape``."""
    if not text.strip():
        return []
    return [item.strip() for item in re.split(rf'(?<!\\){separator}', text)]


def unescape(name: str) -> str:
    r"""``'salt\, pepper'`` -> ``'salt, pepper'``."""
    return re.sub(r'\\([,;#|])', r'\1', name)


def lines_of(text: str) -> list[str]:
    """Lines of any system: they end in LF, CR LF or CR."""
    return _LINE_END.split(text)


def _from_text(text: str, path: Path) -> list[Words]:
    first: dict[str, int] = {}
    classes, written = [], []
    lines = lines_of(text)
    named = [number for number, line in enumerate(lines) if line.strip() and line.lstrip()[0] != '#']
    plain = unnumbered([lines[number].strip() for number in named])
    if plain is not None:
        warnings.warn(f'{path}: the numbers of the lines are read as class ids, not as names', stacklevel=4)
        lines = list(lines)
        for number, line in zip(named, plain, strict=True):
            lines[number] = line
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith('#'):
            continue
        try:
            raw = _words_of(line)
            words = [check_name(unescape(word), 'class name') for word in raw]
            first_line = first.setdefault(normalize(words[0]), number)
            if first_line != number:
                hint = "; commas separate synonyms; if names contain commas, separate synonyms by '; '"
                raise InputError(
                    f'class {words[0]!r} is listed twice (first in line {first_line})'
                    + (hint if len(words) > 1 else '')
                )
        except InputError as error:
            raise InputError(f'{path}: line {number}: {error}') from error
        classes.append(words)
        written.append(raw[0])
    for doubt in _doubts(classes, written):
        warnings.warn(f'{path}: {doubt}', stacklevel=4)
    return classes


def _words_of(line: str) -> Words:
    """A name and its synonyms, not unescaped."""
    words = split_names(line, ';' if re.search(r'(?<!\\);', line) else ',')
    if words[-1] == '':  # a trailing separator is allowed
        words.pop()
    if not words or '' in words:
        raise InputError(f'an empty name in {line.strip()!r:.80}')
    return words


def _doubts(classes: Sequence[Words], written: Sequence[str]) -> Iterator[str]:
    """What was probably not meant; ``written``: names as they are in the file, with backslashes."""
    if not classes:
        return
    yield from doubts(written, commas=len(classes) > 1)
    name = classes[0][0]
    if len(classes) == 1 and len(classes[0]) > 1:
        yield (
            f'the only line is read as one class {name!r} with synonyms ({", ".join(classes[0][1:]):.60}); '
            'put each class on a line of its own'
        )
    elif len(classes) > 1 and all(words[0].isdecimal() and words[1:] for words in classes):
        yield f'the numbers are read as class names, such as {name!r}; put the names first'
    if len(classes) > 1 and (name.endswith(':') or normalize(name) in _HEADERS):
        yield f'the first line is read as a class name ({name!r}), not as a header'
    commented = next((words[-1] for words in classes if ' #' in words[-1]), None)
    if commented is not None:
        yield f'{commented!r} is read as a name: a comment needs a line of its own'


def _from_json(value: Any) -> Mapping[str, Any] | list[Words]:
    if isinstance(value, Mapping):
        if 'class_names' in value:
            return value
        if is_vocabulary(value):
            return from_entries(value)
        if 'categories' in value:
            return _from_json(value['categories'])
        key = next((key for key in _NAMES_KEYS if isinstance(value.get(key), (list, dict))), None)
        if key is not None:
            return _from_json(value[key])
        by_id = _by_id(value)
        return value if by_id is None else by_id
    if not isinstance(value, list):
        raise InputError('a vocabulary must be a JSON list of class names, or an object with "class_names"')
    if value and all(isinstance(one, Mapping) and {'id', 'name'} <= one.keys() for one in value):
        return _in_order([(one['id'], one['name']) for one in value], 'categories')
    return [_named(one) for one in value]


def _by_id(value: Mapping[str, Any]) -> list[Words] | None:
    """Classes of ``{"0": "cat"}`` or ``{"cat": 0}``; None for another object."""
    if value and all(_ID.fullmatch(key) for key in value):
        pairs = [(int(key), name) for key, name in value.items()]
    elif value and all(isinstance(number, int) and not isinstance(number, bool) for number in value.values()):
        pairs = [(number, key) for key, number in value.items()]
    elif value and all(isinstance(number, str) and _ID.fullmatch(number) for number in value.values()):
        pairs = [(int(number), key) for key, number in value.items()]  # numbers of YAML
    else:
        return None
    ids = sorted(number for number, _ in pairs)
    classes = _in_order(pairs, 'class ids')
    if ids != list(range(len(ids))):
        warnings.warn(
            f'the class ids {ids[0]} to {ids[-1]} are not 0 to {len(ids) - 1}: classes are numbered from 0 '
            'in the order of their ids',
            stacklevel=5,
        )
    return classes


def _in_order(pairs: Sequence[tuple[Any, Any]], what: str) -> list[Words]:
    """Names sorted by their ids."""
    for number, _ in pairs:
        if not isinstance(number, int) or isinstance(number, bool):
            raise InputError(f'{what} must have integer ids, got {number!r:.60}')
    number, count = Counter(number for number, _ in pairs).most_common(1)[0]
    if count > 1:
        raise InputError(f'{count} {what} have the id {number}')
    return [_named(name) for _, name in sorted(pairs, key=lambda pair: pair[0])]


def _named(one: Any) -> Words:
    """A class given as its name, or as a list of its name and synonyms."""
    words = [one] if isinstance(one, str) else one
    if not isinstance(words, list) or not words:
        raise InputError(f'a class must be a name, or a list of a name and its synonyms, got {one!r:.60}')
    return [check_name(word, 'class name') for word in words]
