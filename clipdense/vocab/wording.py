"""Words around class names, and sentences whose phrases are the classes, from a file.  K: classes.

A detector that reads names together with a text, such as GLIP, reads the words around a name too, and only
the name counts as the phrase; others are asked for the names.

Source: microsoft/GLIP configs/odinw_35, ``CAPTION_PROMPT`` and ``OVERRIDE_CATEGORY``.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import digest
from clipdense.utils.json_files import read_json

from .class_files import read_text
from .names import check_name, normalize
from .sentences import Sentence
from .vocabulary import Vocabulary
from .vocabulary_files import parse_yaml

_PARTS = ('prefix', 'name', 'suffix')
_NAMED = 5  # classes in a message


class Wording(NamedTuple):
    """How a class is asked."""

    before: str
    name: str  # '' for that of the class
    after: str


@dataclass(frozen=True)
class WordedNames(Vocabulary):
    """A vocabulary with words around its class names.

    Args:
        wording: class name -> words; classes without an entry are asked by their names.
    """

    wording: Mapping[str, Wording] = field(default_factory=dict, hash=False)

    @property
    def spelled(self) -> tuple[tuple[str, int], ...]:
        """As ``queries``, with the names of the classes."""
        return tuple(
            (word, index) for index, name in enumerate(self.class_names) for word in self._words(name)
        )

    @cached_property
    def _queries(self) -> tuple[tuple[str, int], ...]:
        words = {name: one.name for name, one in self.wording.items() if one.name}
        asked: dict[tuple[str, int], tuple[str, int]] = {}  # a synonym that is the new name counts once
        for word, index in self.spelled:
            new = words.get(word, word) if word == self.class_names[index] else word
            asked.setdefault((normalize(new), index), (new, index))
        return tuple(asked.values())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all fields; the same in every process."""
        own = json.dumps(list(self.wording.items()), ensure_ascii=False)
        return digest('wording', own, json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True))


def with_wording(vocabulary: Vocabulary, path: str | Path) -> Vocabulary:
    """Classes with the words of a file.

    The file is JSON: a list of ``{"prefix": ..., "name": ..., "suffix": ...}``, one for each class in their
    order; an object of class name -> words or such an entry; or ``{"sentence": ..., "phrases": [...]}`` with
    the phrase of each class in their order, or an object of class name -> phrase.  Or it is one of GLIP's
    configs of ODinW (YAML).

    Args:
        vocabulary: the classes.
        path: of the file.

    Returns:
        ``WordedNames``, or a ``Sentence`` whose class names are its phrases.

    Raises:
        InputError: not such a file, or one for other classes.
    """
    path = Path(path)
    if path.suffix.lower() in ('.yaml', '.yml'):
        content = _of_config(parse_yaml(read_text(path), path), path)
    else:
        content = read_json(path)
    try:
        if isinstance(content, Mapping) and 'sentence' in content:
            return _sentence(vocabulary, content)
        return _worded(vocabulary, content)
    except InputError as error:
        raise InputError(f'{path}: {error}') from error


def _worded(vocabulary: Vocabulary, content: Any) -> WordedNames:
    if isinstance(content, list):
        given = _in_order(vocabulary, content, 'prompts')
    elif isinstance(content, Mapping):
        given = _by_name(vocabulary, content)
    else:
        raise InputError(
            'must be a list of {"prefix": ..., "name": ..., "suffix": ...}, an object of class name -> '
            f'words, or an object with "sentence" and "phrases", got {type(content).__name__}'
        )
    wording = {name: _wording(one, f'the prompt of {name!r}') for name, one in given.items()}
    fields = {name: getattr(vocabulary, name) for name in Vocabulary.__dataclass_fields__}
    return WordedNames(**fields, wording=wording)


def _sentence(vocabulary: Vocabulary, content: Mapping[str, Any]) -> Sentence:
    for key in content:
        if key not in ('sentence', 'phrases'):
            raise InputError(f'unknown key {key!r} beside "sentence": only "phrases" is read')
    phrases = content.get('phrases')
    if isinstance(phrases, list):
        given = _in_order(vocabulary, phrases, 'phrases')
    elif isinstance(phrases, Mapping):
        given = _by_name(vocabulary, phrases)
        missing = [name for name in vocabulary.class_names if name not in given]
        if missing:
            raise InputError(f'"phrases" has none for the class {missing[0]!r}: a sentence names all classes')
    else:
        raise InputError(f'"sentence" needs "phrases", one for each class, got {phrases!r:.40}')
    ordered = [given[name] for name in vocabulary.class_names]
    for name, words in zip(vocabulary.class_names, ordered, strict=True):
        if not isinstance(words, str):
            raise InputError(f'the phrase of {name!r} must be words of the sentence, got {words!r:.40}')
    found = Sentence.of(content['sentence'], ordered)
    renamed = dict(zip(vocabulary.class_names, found.class_names, strict=True))
    return replace(found, novel=frozenset(renamed[name] for name in vocabulary.novel))


def _in_order(vocabulary: Vocabulary, values: Sequence[Any], what: str) -> dict[str, Any]:
    if len(values) != len(vocabulary):
        raise InputError(
            f'has {len(values)} {what}, and there are {len(vocabulary)} classes ({_names(vocabulary)}): it '
            'belongs to another vocabulary, or a class is missing'
        )
    return dict(zip(vocabulary.class_names, values, strict=True))


def _by_name(vocabulary: Vocabulary, values: Mapping[str, Any]) -> dict[str, Any]:
    """By the vocabulary's spelling of each name."""
    known = {normalize(name): name for name in vocabulary.class_names}
    for name in values:
        if normalize(name) not in known:
            raise InputError(
                f'{name!r} is none of the classes ({_names(vocabulary)}).{nearest(name, known.values())} It '
                'may belong to another vocabulary'
            )
    found = {known[normalize(name)]: value for name, value in values.items()}
    if len(found) < len(values):
        raise InputError('names a class twice (case and underscores do not count)')
    return found


def _wording(entry: Any, what: str) -> Wording:
    if isinstance(entry, str):
        entry = {'name': entry}
    if not isinstance(entry, Mapping):
        raise InputError(f'{what} must be words, or an object with "prefix", "name" and "suffix"')
    for key, value in entry.items():
        if key not in _PARTS:
            raise InputError(f'{what} has an unknown key {key!r}.{nearest(str(key), _PARTS)}')
        if not isinstance(value, str):
            raise InputError(f'{what}: {key} must be a text, got {value!r:.40}')
    name = entry.get('name', '')
    return Wording(
        entry.get('prefix', ''), check_name(name, 'name of a prompt') if name else '', entry.get('suffix', '')
    )


def _of_config(config: Any, path: Path) -> Any:
    """The prompts in one of GLIP's configs; without any its class names."""
    section = config.get('DATASETS') if isinstance(config, Mapping) else None
    if not isinstance(section, Mapping):
        raise InputError(f"{path} has no DATASETS: it is none of GLIP's configs of ODinW")
    for key in ('CAPTION_PROMPT', 'OVERRIDE_CATEGORY'):
        if key in section:
            return _entries(section[key], f'{path}: DATASETS.{key}')
    raise InputError(f'{path}: DATASETS has neither CAPTION_PROMPT nor OVERRIDE_CATEGORY')


def _entries(text: Any, where: str) -> list[Any]:
    try:
        found = ast.literal_eval(text) if isinstance(text, str) else text
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise InputError(f'{where} cannot be read: it must be a list of objects') from error
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise InputError(f'{where} must be a list of objects, got {found!r:.40}')
    return [{key: one[key] for key in _PARTS if key in one} for one in found]


def _names(vocabulary: Vocabulary) -> str:
    shown = ', '.join(vocabulary.class_names[:_NAMED])
    return f'{shown}, ...' if len(vocabulary) > _NAMED else shown
