"""Class names: how they are compared, cleaned and looked up, in every table that has class names as keys."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from clipdense.utils.errors import InputError

# Characters without a glyph: soft hyphen, zero-width space, direction marks, word joiner, byte order mark.
_INVISIBLE = dict.fromkeys(
    [0x00AD, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF]
)
# Not compared either, but part of a spelling: joiners and variation selectors (emoji, Persian).
_NOT_COMPARED = _INVISIBLE | dict.fromkeys([0x200C, 0x200D, *range(0xFE00, 0xFE10)])

# Separators that text is not split at: semicolons, bars, commas of other scripts, full stops between words.
_OTHER_SEPARATORS = re.compile(r'(?<!\\)[;|]|[\uff0c\u3001\uff1b\uff5c\u060c\u061b]| \. |\. .*\.$')
_SPACED_SEPARATORS = re.compile(
    r'(?<!\\);\s|\s\|\s|[\uff0c\u3001\uff1b\uff5c\u060c\u061b]| \. '
)  # in a text with commas, where 'a;b' is one name
_NUMBER = re.compile(r'(\d{1,9})\s*[\s.:)\]\-]\s*\S')
_NUMBERED = re.compile(r'(\d{1,9})\s*[\s.:)\]\-,;]\s*(\S.*)')
_WORDNET_ID = re.compile(r'n\d{8}\b')
_BULLET = re.compile(r'[-*\u2022\u00b7]\s+\S')
_QUOTES = ('""', "''", '``', '\u201c\u201d', '\u2018\u2019')
_BRACKETS = ('[]', '()', '{}')


def normalize(name: str) -> str:
    """Canonical form for comparing names; it is never shown, and no text tower reads it.

    Without case, underscores, the encoding of accents, the width of letters, repeated and non-breaking
    spaces, invisible characters, and full stops at the end: 'Traffic_Light.' and 'traffic  light' are one.
    """
    key = name.casefold()
    if not name.isascii():
        key = unicodedata.normalize('NFKD', name.translate(_NOT_COMPARED)).casefold()
        key = unicodedata.normalize('NFKC', unicodedata.normalize('NFKD', key).casefold())
    spaced = ' '.join(key.replace('_', ' ').split())
    return spaced.rstrip('. ') or spaced or key


def places(names: Iterable[str]) -> dict[str, int]:
    """Normal form -> position; of equal names the first."""
    found: dict[str, int] = {}
    for position, name in enumerate(names):
        found.setdefault(normalize(name), position)
    return found


def first_repeated(names: Sequence[str]) -> tuple[str, str] | None:
    """The first name that equals an earlier one, and that one."""
    first: dict[str, str] = {}
    for position, name in enumerate(names):
        other = first.setdefault(normalize(name), name)
        if len(first) == position:
            return name, other
    return None


def is_background(name: str) -> bool:
    """Whether a class name is a spelling of "background", as datasets and labeling tools write it.

    'Background', '_background_' (labelme), '__background__' (torchvision) and 'bg' are.
    """
    return normalize(name).strip(' -') in ('background', 'bg')


def check_name(name: Any, what: str) -> str:
    """The name without surrounding spaces and invisible characters.

    Raises:
        InputError: not a string, blank, or with a tab, line break or another control character.
    """
    if not isinstance(name, str):
        raise InputError(f'a {what} must be a string, got {type(name).__name__} {name!r:.60}')
    name = name.translate(_INVISIBLE).strip()
    if not name.translate(_NOT_COMPARED).strip():
        raise InputError(f'a {what} is blank')
    if any(unicodedata.category(character) in ('Cc', 'Cs') for character in name):
        raise InputError(
            f'a {what} contains a tab, a line break or another control character: {name!r:.80}; '
            'separate names with commas'
        )
    return name


def doubts(names: Sequence[str], commas: bool = False) -> Iterator[str]:
    """What the user probably did not mean: separators, numbers, quotes and brackets that are part of names.

    Args:
        names: at least one, as they were written.
        commas: whether the text had commas.
    """
    separators = _SPACED_SEPARATORS if commas else _OTHER_SEPARATORS
    joined = [name for name in names if separators.search(name)]
    if joined:
        others = f' (and {len(joined) - 1} more)' if len(joined) > 1 else ''
        yield f'{joined[0]!r}{others} is read as one class name; separate names with commas'
    decorated = _decoration(names)
    if decorated:
        yield f'{decorated} are read as part of the class names, such as {names[0]!r}; remove them'
    for name in names:
        if not any(unicodedata.category(character)[0] in 'LNSC' for character in name):
            yield f'the class name {name!r} has only punctuation'
            break


def unnumbered(lines: Sequence[str]) -> list[str] | None:
    """Lines '0 cat', '1: dog', '2,cow', numbered one after another from 0 or 1, without their numbers.

    None if they are not, or if there is a single line.
    """
    found = [_NUMBERED.match(line) for line in lines]
    if len(found) < 2 or not all(found):
        return None
    pairs = [(int(match[1]), match[2]) for match in found if match]
    start = pairs[0][0]
    if start > 1 or [number for number, _ in pairs] != list(range(start, start + len(pairs))):
        return None
    return [name for _, name in pairs]


def _decoration(names: Sequence[str]) -> str:
    """What surrounds all names, such as 'numbers'; '' if nothing does."""
    first, last = names[0], names[-1]
    if any(first[0] == pair[0] and last[-1] == pair[1] for pair in _BRACKETS) and (
        len(names) > 1 or first[1:2] in ('"', "'")
    ):
        return 'brackets'
    if any(all(len(name) > 2 and name[0] + name[-1] == pair for name in names) for pair in _QUOTES):
        return 'quotes'
    if len(names) < 2:
        return ''
    if all(map(_BULLET.match, names)):
        return 'bullets'
    if all(map(_WORDNET_ID.match, names)):
        return 'WordNet ids'
    numbers = [int(match[1]) for match in map(_NUMBER.match, names) if match]
    if len(numbers) == len(names) and numbers == list(range(numbers[0], numbers[0] + len(names))):
        return 'numbers'
    return ''
