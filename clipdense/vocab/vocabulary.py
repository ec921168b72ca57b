"""What a model is asked for: ordered classes, their synonyms, a background, and which of them are novel."""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import atomic_write, digest


def is_background(name: str) -> bool:
    """Whether a class name is a spelling of "background", as datasets and labeling tools write it.

    'Background', '_background_' (labelme), '__background__' (torchvision) and 'bg' are.
    """
    return name.strip(' _-').casefold() in ('background', 'bg')


@dataclass(frozen=True)
class Vocabulary:
    """Ordered class names; class ``i`` is ``class_names[i]`` in masks, boxes and scores.

    Names are list items and may hold commas; only ``parse`` and ``from_file`` split text. Case and spaces do
    not tell names apart.

    Args:
        class_names: K names.
        synonyms: further words by class name. A class is asked by its name and its synonyms and scores as the
            best of them. The background is asked by its synonyms alone where it has some, for the word
            "background" looks like nothing.
        background: the name of the class for whatever is none of the others.
        novel: names that no mask or box of the training showed (open-vocabulary evaluation).

    Raises:
        InputError: no names; blank, repeated or non-text ones; or synonyms, background or novel names of
            classes that are not there.

    Warns:
        UserWarning: one word speaks for two classes.
    """

    class_names: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    background: str | None = None
    novel: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        names = tuple(
            _check_word(name, 'class name') for name in _check_list(self.class_names, 'class names')
        )
        if not names:
            raise InputError('the vocabulary is empty: give at least one class name')
        repeated = _first_repeated(names)
        if repeated is not None:
            raise InputError(f'class {repeated!r} is listed twice (case and spaces do not tell names apart)')
        object.__setattr__(self, 'class_names', names)
        if self.background is not None:
            object.__setattr__(self, 'background', self._known(self.background, 'background'))
        novel = frozenset(self._known(name, 'novel class') for name in _check_list(self.novel, 'novel'))
        object.__setattr__(self, 'novel', novel)
        if not isinstance(self.synonyms, Mapping):
            raise InputError('synonyms must map class names to lists of words')
        synonyms = {
            self._known(name, 'class with synonyms'): tuple(
                _check_word(word, f'synonym of {name!r}')
                for word in _check_list(words, f'synonyms of {name!r}')
            )
            for name, words in self.synonyms.items()
        }
        if len(synonyms) < len(self.synonyms):
            raise InputError('synonyms name one class twice')
        object.__setattr__(self, 'synonyms', {name: synonyms[name] for name in names if synonyms.get(name)})
        self._check_queries()

    def __len__(self) -> int:
        return len(self.class_names)

    @property
    def base(self) -> tuple[str, ...]:
        """Names that training did show: neither novel nor the background."""
        return tuple(name for name in self.class_names if name not in self.novel and name != self.background)

    @cached_property
    def queries(self) -> tuple[tuple[str, int], ...]:
        """Every word to ask, with the index of its class; in class order, the name first."""
        return tuple(
            (word, index) for index, name in enumerate(self.class_names) for word in self._words(name)
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything above; the same in every process."""
        return digest('vocabulary', json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True))

    def index(self, name: str) -> int:
        """The class index of a name, whatever its case.

        Raises:
            InputError: no such class; the nearest one is named.
        """
        return self.class_names.index(self._known(name, 'class'))

    def subset(self, names: Iterable[str]) -> Vocabulary:
        """Only these classes, in this order, with what belongs to them.

        Raises:
            InputError: an unknown, repeated or missing name.
        """
        kept = tuple(self._known(name, 'class') for name in _check_list(names, 'names'))
        background = self.background if self.background in kept else None
        synonyms = {name: words for name, words in self.synonyms.items() if name in kept}
        return Vocabulary(kept, synonyms, background, self.novel & set(kept))

    def with_background(self, words: Sequence[str] = (), name: str = 'background') -> Vocabulary:
        """The same classes after a background at index 0, as PASCAL VOC counts.

        Args:
            words: what the background is asked by, ``class_names.BACKGROUND_WORDS`` for example; words that
                stand for a class already are left out. Without any it is asked by its name.
            name: what it is called.

        Raises:
            InputError: there is a background already.
        """
        if self.background is not None:
            raise InputError(f'the vocabulary has a background already: {self.background!r}')
        taken = {normalize(word) for word, _ in self.queries}
        free = tuple(word for word in _check_list(words, 'background words') if normalize(word) not in taken)
        return Vocabulary((name, *self.class_names), {**self.synonyms, name: free}, name, self.novel)

    def marking_background(self) -> Vocabulary:
        """The same classes, with the one that spells "background" as the background (see ``is_background``).

        A spelling such as '_background_' is asked as "background".  Unchanged if there is a background, or no
        such class.
        """
        name = next((name for name in self.class_names if is_background(name)), None)
        if self.background is not None or name is None:
            return self
        words = self.synonyms.get(name) or (() if normalize(name) == 'background' else ('background',))
        return Vocabulary(self.class_names, {**self.synonyms, name: words}, name, self.novel)

    @classmethod
    def parse(cls, text: str) -> Vocabulary:
        """``'car, traffic light'`` as on a command line: split at commas; ``\\,`` is a comma inside a name.

        Raises:
            InputError: as the constructor.
        """
        return cls(tuple(_split(text, ','))).marking_background()

    @classmethod
    def from_file(cls, path: str | Path, background: str | None = None) -> Vocabulary:
        """Read ``.json``, as ``save`` writes it, or text with one class a line.

        A line is a name, or a name and its synonyms, separated by commas, or by semicolons where the line has
        one (words may then hold commas); ``\\,`` and ``\\;`` stand for themselves. Empty lines and lines that
        begin with ``#`` are skipped. JSON may also be a list of names, or of lists of a name and synonyms.

        Args:
            path: the file.
            background: name of the background class. Where no class has it, the first class takes it, and its
                line becomes the background's words (so are the class files of SCLIP and ProxyCLIP written).

        Raises:
            InputError: no such file, not UTF-8, not such a list, or as the constructor.
        """
        path = Path(path)
        text = _read(path)
        try:
            if path.suffix.lower() == '.json':
                vocabulary = cls._from_json(json.loads(text))
            else:
                lines = _lines(text)
                _refuse_repeated_classes(lines)
                vocabulary = cls._from_words([words for _, words in lines])
            if background is not None:
                return vocabulary._name_background(background)
            return vocabulary.marking_background()
        except json.JSONDecodeError as error:
            raise InputError(f'{path} is not JSON: {error}') from error
        except InputError as error:
            raise InputError(f'{path}: {error}') from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Vocabulary:
        """The inverse of ``to_dict``.

        Raises:
            InputError: unknown or missing keys, or as the constructor.
        """
        known = ('class_names', 'synonyms', 'background', 'novel')
        for key in values:
            if key not in known:
                raise InputError(f'unknown key {key!r} in a vocabulary.{nearest(str(key), known)}')
        if 'class_names' not in values:
            raise InputError("a vocabulary needs 'class_names'")
        return cls(
            values['class_names'],
            values.get('synonyms') or {},
            values.get('background'),
            values.get('novel') or frozenset(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and the metadata of checkpoints."""
        return {
            'class_names': list(self.class_names),
            'synonyms': {name: list(words) for name, words in self.synonyms.items()},
            'background': self.background,
            'novel': [name for name in self.class_names if name in self.novel],
        }

    def save(self, path: str | Path) -> None:
        """Write JSON that ``from_file`` reads.

        Raises:
            InputError: the file cannot be written, or its name would be read as something else.
        """
        path = Path(path)
        if path.suffix.lower() != '.json':
            raise InputError(f'a vocabulary is saved as .json, not as {path.name}')
        with atomic_write(path, 'w') as file:
            json.dump(self.to_dict(), file, ensure_ascii=False, indent=1)

    @classmethod
    def _from_json(cls, value: Any) -> Vocabulary:
        if isinstance(value, dict):
            return cls.from_dict(value)
        if not isinstance(value, list):
            raise InputError('a vocabulary is a list of names, or an object with "class_names"')
        return cls._from_words([[item] if isinstance(item, str) else item for item in value])

    @classmethod
    def _from_words(cls, classes: Sequence[Sequence[str]]) -> Vocabulary:
        """Each class as its name and synonyms."""
        for words in classes:
            if not isinstance(words, list) or not words:
                raise InputError(f'a class is a name or a list of a name and its synonyms, not {words!r}')
        names = tuple(_check_word(words[0], 'class name') for words in classes)
        return cls(names, {name: tuple(words[1:]) for name, words in zip(names, classes, strict=True)})

    def _name_background(self, name: str) -> Vocabulary:
        if any(normalize(name) == normalize(known) for known in self.class_names):
            return Vocabulary(self.class_names, self.synonyms, name, self.novel)
        first, *others = self.class_names
        synonyms = {**self.synonyms, name: (first, *self.synonyms.get(first, ()))}
        synonyms.pop(first, None)
        return Vocabulary((name, *others), synonyms, name, self.novel - {first})

    def _words(self, name: str) -> tuple[str, ...]:
        synonyms = self.synonyms.get(name, ())
        return synonyms if synonyms and name == self.background else (name, *synonyms)

    def _check_queries(self) -> None:
        """Refuse a word given twice for a class; warn of words that classes share, as published lists do."""
        for name in self.class_names:
            repeated = _first_repeated(self._words(name))
            if repeated is not None:
                raise InputError(f'{repeated!r} is given twice for class {name!r}')
        shared = _first_repeated([word for word, _ in self.queries])
        if shared is not None:
            owners = [self.class_names[i] for word, i in self.queries if normalize(word) == normalize(shared)]
            warnings.warn(f'{shared!r} is asked for several classes, the first of which wins: {owners}')

    def _known(self, name: str, role: str) -> str:
        """The spelling of the vocabulary for a name in any case."""
        spelling = self._spellings.get(normalize(name)) if isinstance(name, str) else None
        if spelling is None:
            raise InputError(
                f'{role} {name!r} is not in the vocabulary.{nearest(str(name), self.class_names)}'
            )
        return spelling

    @cached_property
    def _spellings(self) -> dict[str, str]:
        return {normalize(name): name for name in self.class_names}


def normalize(name: str) -> str:
    """What two spellings of one name have in common: no case, single spaces, composed accents."""
    return ' '.join(unicodedata.normalize('NFC', name).casefold().split())


def _check_list(values: Any, what: str) -> tuple[Any, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InputError(
            f'{what} must be a list, not {values!r:.60} (Vocabulary.parse splits a text at commas)'
        )
    return tuple(values)


def _check_word(word: Any, what: str) -> str:
    """The word without spaces around it."""
    if not isinstance(word, str):
        raise InputError(f'a {what} must be a text, not {type(word).__name__} {word!r:.60}')
    if not word.strip():
        raise InputError(f'a {what} is blank')
    if any(unicodedata.category(character) in ('Cc', 'Cs') for character in word):
        raise InputError(f'a {what} holds a line break or another control character: {word!r:.80}')
    return word.strip()


def _first_repeated(words: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for word in words:
        key = normalize(word)
        if key in seen:
            return word
        seen.add(key)
    return None


def _split(text: str, separator: str) -> list[str]:
    """Items between separators; a separator after a backslash belongs to its item."""
    if not text.strip():
        return []
    items = re.split(rf'(?<!\\){separator}', text)
    return [re.sub(r'\\([,;#])', r'\1', item).strip() for item in items]


def _lines(text: str) -> list[tuple[int, list[str]]]:
    """The line number and the words of each class."""
    classes = []
    for number, line in enumerate(text.split('\n'), 1):
        if not line.strip() or line.lstrip().startswith('#'):
            continue
        words = _split(line, ';' if re.search(r'(?<!\\);', line) else ',')
        if words[-1] == '':  # a separator at the end closes the last word
            words.pop()
        if not words or '' in words:
            raise InputError(f'line {number} has a blank word: {line.strip()!r:.80}')
        classes.append((number, words))
    return classes


def _refuse_repeated_classes(lines: Sequence[tuple[int, list[str]]]) -> None:
    seen: dict[str, int] = {}
    for number, words in lines:
        first = seen.setdefault(normalize(words[0]), number)
        if first != number:
            hint = "; commas separate synonyms: where they belong to names, write '; ' between synonyms"
            raise InputError(
                f'line {number} has class {words[0]!r}, which is listed twice (first in line {first})'
                + (hint if len(words) > 1 else '')
            )


def _read(path: Path) -> str:
    try:
        return path.read_text('utf-8-sig')
    except UnicodeDecodeError as error:
        raise InputError(f'{path} is not UTF-8 text: save it as UTF-8') from error
    except OSError as error:
        raise InputError(f'cannot read the vocabulary {path}: {error.strerror}') from error
