"""Vocabulary: ordered class names with synonyms, a background class, negatives and thresholds."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import atomic_write, digest

from .class_files import read_class_file, split_names, unescape
from .examples import Example, check_examples
from .names import check_name, doubts, first_repeated, is_background, normalize
from .templates import get_templates
from .vocabulary_files import check_thresholds, to_entries, write_yaml


@dataclass(frozen=True)
class Vocabulary:
    """Ordered class names; class ``i`` is ``class_names[i]`` in masks, boxes and scores.

    Names are list items and may contain commas; only ``parse`` and ``from_file`` split text. Names keep
    their spelling, and are compared in a normal form, see ``names.normalize``.

    Args:
        class_names: K names.
        synonyms: more names by class name. A class is queried with its name and its synonyms; its score is
            their maximum. A background with synonyms is queried with these only: the word
            "background" matches no image content.
        background: name of the class of pixels that belong to no other class.
        novel: names without masks or boxes in training (open-vocabulary evaluation).
        negatives: names that compete with the classes and are never reported: pixels that look most like one
            become background, detections and probabilities of one are left out.
        thresholds: class name -> lowest score, 0 to 1: pixels below it become background, detections and
            classes of an image below it are left out.
        templates: prompt templates of these names, as ``get_templates`` takes them; None for those of the
            model.
        examples: class name -> images, or pairs of an image and a mask, that show the class and are asked
            instead of its name, see ``Example``.  Classes that are not among the names follow them.

    Raises:
        InputError: no names; blank, repeated or non-text names; synonyms, thresholds, background or novel
            names of unknown classes; negatives that are names of classes; a class with examples and
            synonyms.

    Warns:
        UserWarning: two classes share a name or synonym.
    """

    class_names: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    background: str | None = None
    novel: frozenset[str] = frozenset()
    negatives: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict, hash=False)
    templates: str | tuple[str, ...] | None = None
    examples: Mapping[str, tuple[Example, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.class_names, (set, frozenset, Mapping)):
            kind = type(self.class_names).__name__
            raise InputError(f'class names must be a list, got a {kind}, which does not number classes')
        names = tuple(check_name(name, 'class name') for name in _check_list(self.class_names, 'class names'))
        examples = check_examples(self.examples)
        known = {normalize(name) for name in names}
        shown = [check_name(name, 'class with examples') for name in examples]
        names += tuple(name for name in shown if normalize(name) not in known)
        if not names:
            raise InputError('the vocabulary is empty; pass at least one class name')
        repeated = first_repeated(names)
        if repeated is not None:
            name, other = repeated
            also = '' if name == other else f', also as {other!r}'
            raise InputError(
                f'class {name!r} is listed twice{also} (case, underscores and repeated spaces do not count)'
            )
        object.__setattr__(self, 'class_names', names)
        if self.background is not None:
            object.__setattr__(self, 'background', self._known(self.background, 'background'))
        novel = frozenset(self._known(name, 'novel class') for name in _check_list(self.novel, 'novel'))
        object.__setattr__(self, 'novel', novel)
        if not isinstance(self.synonyms, Mapping):
            raise InputError('synonyms must be a dict of class name -> list of synonyms')
        synonyms = {
            self._known(name, 'class with synonyms'): tuple(
                check_name(word, f'synonym of {name!r}')
                for word in _check_list(words, f'synonyms of {name!r}')
            )
            for name, words in self.synonyms.items()
        }
        if len(synonyms) < len(self.synonyms):
            raise InputError('synonyms lists a class twice')
        object.__setattr__(self, 'synonyms', {name: synonyms[name] for name in names if synonyms.get(name)})
        self._set_examples(examples)
        self._check_queries()
        negatives = tuple(check_name(name, 'negative') for name in _check_list(self.negatives, 'negatives'))
        object.__setattr__(self, 'negatives', negatives)
        self._check_negatives()
        thresholds = check_thresholds(self.thresholds)
        least = {self._known(name, 'class with a threshold'): value for name, value in thresholds.items()}
        if len(least) < len(thresholds):
            raise InputError('thresholds lists a class twice')
        object.__setattr__(self, 'thresholds', least)
        if self.templates is not None:
            given = self.templates if isinstance(self.templates, str) else tuple(self.templates)
            get_templates(given)
            object.__setattr__(self, 'templates', given)

    def __len__(self) -> int:
        return len(self.class_names)

    def __contains__(self, name: object) -> bool:
        """Whether a class has this name, in any spelling."""
        return isinstance(name, str) and normalize(name) in self._spellings

    @property
    def base(self) -> tuple[str, ...]:
        """Names of the base classes: neither novel nor the background."""
        return tuple(name for name in self.class_names if name not in self.novel and name != self.background)

    @property
    def queries(self) -> tuple[tuple[str, int], ...]:
        """All names and synonyms with their class index; in class order, the name first.

        Raises:
            InputError: a class is given by examples, which have to be embedded instead of its name.
        """
        for name in self.examples:
            raise InputError(
                f'class {name!r} is given by example images, which only Classifier, Segmenter and Detector '
                'and their commands embed: give its name instead'
            )
        return self._queries

    @cached_property
    def _queries(self) -> tuple[tuple[str, int], ...]:
        return tuple(
            (word, index) for index, name in enumerate(self.class_names) for word in self._words(name)
        )

    @cached_property
    def names_only(self) -> Vocabulary:
        """The same classes without examples, asked by their names."""
        return replace(self, examples={}) if self.examples else self

    @property
    def example_files(self) -> tuple[str, ...]:
        """Paths of the images and masks of all examples."""
        return tuple(path for own in self.examples.values() for one in own for path in one if path)

    @cached_property
    def with_negatives(self) -> Vocabulary:
        """The vocabulary that a model is asked: negatives are further classes, after the others."""
        if not self.negatives:
            return self
        return replace(self, class_names=(*self.class_names, *self.negatives), negatives=())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all fields; the same in every process."""
        return digest('vocabulary', json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True))

    def index(self, name: str) -> int:
        """The class index of a name, in any spelling (see ``names.normalize``).

        Raises:
            InputError: an unknown class; the message suggests the nearest one.
        """
        return self.class_names.index(self._known(name, 'class'))

    def subset(self, names: Iterable[str]) -> Vocabulary:
        """Only these classes, in this order, with their synonyms and roles.

        Raises:
            InputError: an unknown, repeated or missing name.
        """
        kept = tuple(self._known(name, 'class') for name in _check_list(names, 'names'))
        background = self.background if self.background in kept else None
        synonyms = {name: words for name, words in self.synonyms.items() if name in kept}
        thresholds = {name: value for name, value in self.thresholds.items() if name in kept}
        return replace(
            self,
            class_names=kept,
            synonyms=synonyms,
            background=background,
            novel=self.novel & set(kept),
            thresholds=thresholds,
            examples={name: found for name, found in self.examples.items() if name in kept},
        )

    def with_background(self, words: str | Sequence[str] = (), name: str = 'background') -> Vocabulary:
        """Insert a background class at index 0, as in PASCAL VOC.

        Args:
            words: queries of the background, such as ``class_names.BACKGROUND_WORDS``; names of
                other classes are dropped. A string is one query. By default its name is the query.
            name: its class name.

        Raises:
            InputError: the vocabulary has a background.
        """
        if self.background is not None:
            raise InputError(f'the vocabulary already has a background class: {self.background!r}')
        words = (words,) if isinstance(words, str) else words
        taken = {normalize(word) for word, _ in self._queries}
        free = tuple(word for word in _check_list(words, 'background words') if normalize(word) not in taken)
        names = (name, *self.class_names)
        return replace(self, class_names=names, synonyms={**self.synonyms, name: free}, background=name)

    def marking_background(self) -> Vocabulary:
        """The same classes, with the one that spells "background" as the background (see ``is_background``).

        A spelling such as '_background_' is asked as "background".  Unchanged if there is a background, or no
        such class.
        """
        name = next((name for name in self.class_names if is_background(name)), None)
        if self.background is not None or name is None:
            return self
        words = self.synonyms.get(name) or (() if name.casefold() == 'background' else ('background',))
        return replace(self, synonyms={**self.synonyms, name: words}, background=name)

    @classmethod
    def parse(cls, text: str, strict: bool = False) -> Vocabulary:
        """Split a text such as ``'car, traffic light'`` at commas; ``\\,`` is a comma inside a name.

        Args:
            text: the names.
            strict: whether to raise an error instead of the warning.

        Raises:
            InputError: as the constructor.

        Warns:
            UserWarning: the text is probably not meant as it was read: it has other separators (semicolons,
                bars, Chinese or Japanese commas, ' . '), or brackets, quotes or numbers around names.
        """
        if not isinstance(text, str):
            raise InputError(f"parse takes a text such as 'cat, dog', got {type(text).__name__}")
        written = split_names(text)
        if '' in written:
            raise InputError(f'a class name is blank in {text!r:.80}: remove the extra comma')
        vocabulary = cls(tuple(map(unescape, written))).marking_background()
        for doubt in doubts(written, commas=len(written) > 1):
            if strict:
                raise InputError(
                    doubt.replace('is read as', 'would be read as').replace('are read', 'would be read')
                )
            warnings.warn(doubt, stacklevel=2)
        return vocabulary

    @classmethod
    def from_file(cls, path: str | Path, background: str | None = None) -> Vocabulary:
        """Read ``.json`` or ``.yaml``, as written by ``save``, or text with one class per line.

        A line is a name, or a name and its synonyms, separated by commas, or by semicolons if the line has
        one (names may then contain commas); ``\\,`` and ``\\;`` are literal. Empty lines and lines that
        begin with ``#`` are skipped. JSON may also be a list of names, or of lists of a name and synonyms; an
        object of class id -> name, or name -> id, also below ``id2label``, ``names`` or ``classes``; or the
        categories of COCO or LVIS. Classes are numbered in the order of their ids. YAML has the same layouts,
        and both have that of docs/segment.md ("Vocabulary files"). Of a ``.safetensors`` file of class
        embeddings only the vocabulary is read.

        Args:
            path: the file.
            background: name of the background class. If no class has it, the first class gets it, and its
                line becomes the background's queries (the format of SCLIP's and ProxyCLIP's class files).

        Raises:
            InputError: not a regular file, not UTF-8, another format, or as the constructor.

        Warns:
            UserWarning: as ``parse``; or the file is a single line, or has ids that are not 0 to K - 1.
        """
        content = read_class_file(path)
        try:
            if isinstance(content, Mapping):
                vocabulary = cls.from_dict(content)._moved(lambda one: one.below(Path(path).parent))
            else:
                names = tuple(words[0] for words in content)
                vocabulary = cls(names, {words[0]: tuple(words[1:]) for words in content})
            if background is not None:
                return vocabulary._name_background(background)
            return vocabulary.marking_background()
        except InputError as error:
            raise InputError(f'{path}: {error}') from error

    @classmethod
    def from_images(
        cls,
        examples: Mapping[str, Sequence[str | Path | tuple[str | Path, str | Path]]],
        class_names: Sequence[str] = (),
    ) -> Vocabulary:
        """Classes given by example images, after classes given by names.

        Args:
            examples: class name -> paths of images, or pairs of an image and a mask whose pixels that are
                not 0 show the class.
            class_names: names of further classes.

        Raises:
            InputError: a class both named and given by examples, or as the constructor.

        Example:
            >>> Vocabulary.from_images({'logo': ['a.png', ('b.png', 'b_mask.png')]}, ['car', 'road'])
        """
        names = tuple(_check_list(class_names, 'class names'))
        shown = {normalize(str(name)) for name in check_examples(examples)}
        for name in names:
            if normalize(str(name)) in shown:
                raise InputError(f'class {name!r} is given by its name and by examples: leave one out')
        return cls(names, examples=examples)  # type: ignore[arg-type]  # converted by the constructor

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Vocabulary:
        """The inverse of ``to_dict``.

        Raises:
            InputError: unknown or missing keys, or as the constructor.
        """
        if not isinstance(values, Mapping):
            raise InputError(
                f'a vocabulary must be an object with "class_names", got {type(values).__name__}'
            )
        known = (
            'class_names', 'synonyms', 'background', 'novel', 'negatives', 'thresholds', 'templates',
            'examples',
        )  # fmt: skip
        for key in values:
            if key not in known:
                raise InputError(f'unknown key {key!r} in the vocabulary.{nearest(str(key), known)}')
        if 'class_names' not in values:
            raise InputError("the vocabulary has no 'class_names'")
        return cls(
            values['class_names'],
            values.get('synonyms') or {},
            values.get('background'),
            values.get('novel') or frozenset(),
            values.get('negatives') or (),
            values.get('thresholds') or {},
            values.get('templates') or None,
            values.get('examples') or {},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and the metadata of checkpoints."""
        values: dict[str, Any] = {
            'class_names': list(self.class_names),
            'synonyms': {name: list(words) for name, words in self.synonyms.items()},
            'background': self.background,
            'novel': [name for name in self.class_names if name in self.novel],
        }
        if self.negatives:  # left out if empty: digests of vocabularies without them stay as they were
            values['negatives'] = list(self.negatives)
        if self.thresholds:
            values['thresholds'] = {
                name: self.thresholds[name] for name in self.class_names if name in self.thresholds
            }
        if self.templates is not None:
            values['templates'] = self.templates if isinstance(self.templates, str) else list(self.templates)
        if self.examples:
            values['examples'] = {name: [one.entry() for one in own] for name, own in self.examples.items()}
        return values

    def save(self, path: str | Path) -> None:
        """Write JSON or YAML that ``from_file`` reads; examples in the folder of the file by relative paths.

        Raises:
            InputError: the file cannot be written, or does not end in ``.json``, ``.yaml`` or ``.yml``.
        """
        path = Path(path)
        values = self._moved(lambda one: one.relative_to(path.parent)).to_dict()
        if path.suffix.lower() in ('.yaml', '.yml'):
            write_yaml(path, to_entries(values))
            return
        if path.suffix.lower() != '.json':
            raise InputError(f'a vocabulary is saved as JSON or YAML; {path.name} must end in .json or .yaml')
        with atomic_write(path, 'w') as file:
            json.dump(values, file, ensure_ascii=False, indent=1)

    def _moved(self, change: Callable[[Example], Example]) -> Vocabulary:
        """With other paths of the examples."""
        if not self.examples:
            return self
        moved = {name: tuple(map(change, own)) for name, own in self.examples.items()}
        return replace(self, examples=moved)

    def _set_examples(self, examples: Mapping[str, tuple[Example, ...]]) -> None:
        """Raise for classes that examples list twice, or that have synonyms too."""
        spelled = {self._known(name, 'class with examples'): own for name, own in examples.items()}
        if len(spelled) < len(examples):
            raise InputError('examples lists a class twice')
        for name in spelled:
            if name in self.synonyms:
                raise InputError(f'class {name!r} is given by examples and has synonyms: leave one out')
        kept = {name: spelled[name] for name in self.class_names if name in spelled}
        object.__setattr__(self, 'examples', kept)

    def _name_background(self, name: str) -> Vocabulary:
        if name in self:
            return replace(self, background=name)
        first, *others = self.class_names
        examples = {name if key == first else key: own for key, own in self.examples.items()}
        synonyms = dict(self.synonyms)
        words = (first, *synonyms.pop(first, ()))
        if name not in examples:
            synonyms[name] = words
        return replace(
            self,
            class_names=(name, *others),
            synonyms=synonyms,
            background=name,
            novel=self.novel - {first},
            thresholds={key: value for key, value in self.thresholds.items() if key != first},
            examples=examples,
        )

    def _words(self, name: str) -> tuple[str, ...]:
        synonyms = self.synonyms.get(name, ())
        return synonyms if synonyms and name == self.background else (name, *synonyms)

    def _check_queries(self) -> None:
        """Raise for duplicates within a class; warn of names shared by classes (as in published lists)."""
        for name in self.class_names:
            repeated = first_repeated(self._words(name))
            if repeated is not None:
                raise InputError(f'{repeated[0]!r} occurs twice among the names of class {name!r}')
        repeated = first_repeated([word for word, _ in self._queries])
        if repeated is not None:
            shared = repeated[0]
            owners = [
                self.class_names[i] for word, i in self._queries if normalize(word) == normalize(shared)
            ]
            warnings.warn(f'{shared!r} belongs to several classes ({owners}); the first of them wins')

    def _check_negatives(self) -> None:
        """Raise for negatives that are listed twice, or are names or synonyms of classes."""
        repeated = first_repeated(self.negatives)
        if repeated is not None:
            raise InputError(f'negative {repeated[0]!r} is listed twice')
        owners = {normalize(word): self.class_names[index] for word, index in reversed(self._queries)}
        for name in self.negatives:
            owner = owners.get(normalize(name))
            if owner is not None:
                raise InputError(f'negative {name!r} is a name of class {owner!r}: remove one of them')

    def _known(self, name: str, role: str) -> str:
        """The vocabulary's spelling of a name."""
        spelling = self._spellings.get(normalize(name)) if isinstance(name, str) else None
        if spelling is None:
            raise InputError(
                f'{role} {name!r} is not in the vocabulary.{nearest(str(name), self.class_names)}'
            )
        return spelling

    @cached_property
    def _spellings(self) -> dict[str, str]:
        return {normalize(name): name for name in self.class_names}


def _check_list(values: Any, what: str) -> tuple[Any, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InputError(
            f'{what} must be a list, got {values!r:.60} (Vocabulary.parse splits a text at commas)'
        )
    return tuple(values)
