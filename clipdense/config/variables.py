"""Values of a config that stand once, at its top, and that other entries refer to.

An entry whose value is the text ``'{{NAME}}'`` gets the value of the top-level entry NAME, after options and
configs that build on this one have changed it: ``-o data=FOLDER`` reaches every data set of the config.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from clipdense.utils.errors import InputError, nearest

from .merging import copied

_REFERENCE = re.compile(r'\{\{\s*(\w+)\s*\}\}')
Place = tuple[str | int, ...]
References = dict[Place, str]


def substitute(cfg: dict[str, Any]) -> References:
    """Replace references by values in place.

    Returns:
        The name that each replaced entry referred to, by the keys that lead to the entry.

    Raises:
        InputError: a reference to no top-level entry, or to one that is a reference itself.
    """
    found = {place: name for place, value in _entries(cfg) if (name := _referred(value))}
    names = [name for name in dict.keys(cfg) if isinstance(name, str)]
    for place, name in found.items():
        where = '.'.join(map(str, place))
        if name not in names:
            raise InputError(f'{where}: the config has no entry {name!r}.{nearest(name, names)}')
        if (name,) in found:
            raise InputError(f'{where}: {name!r} is a reference itself; refer to a value')
        _set(cfg, place, copied(dict.__getitem__(cfg, name)))
    return found


def restore(cfg: dict[str, Any], references: References) -> None:
    """Undo ``substitute`` in place, so that a value can be changed again; other changes of entries stay."""
    for place, name in references.items():
        try:
            unchanged = bool(_get(cfg, place) == dict.get(cfg, name))
        except (LookupError, TypeError):  # its part was replaced
            continue
        if unchanged:
            _set(cfg, place, f'{{{{{name}}}}}')


def check_used(cfg: Mapping[str, Any], name: str, settings: Collection[str]) -> None:
    """Refuse to set a top-level value that only the text of the config uses, which would change nothing.

    Args:
        cfg: the config, with its references.
        name: of the entry.
        settings: names of top-level entries that a run uses.

    Raises:
        InputError: with the entries that have this value.
    """
    value = cfg[name]
    if name in settings or isinstance(value, Mapping):
        return
    entries = list(_entries(cfg))
    if any(_referred(other) == name for _, other in entries):
        return
    same = ['.'.join(map(str, place)) for place, other in entries if len(place) > 1 and _like(other, value)]
    hint = f'set {" and ".join(same[:3])}' if same else 'set the entry that it is for'
    raise InputError(
        f'option {name}: {name!r} only names a value within the config, and setting it would change nothing; '
        f'{hint}'
    )


def _referred(value: Any) -> str | None:
    """The name in a reference; None for other values."""
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else match[1]


def _like(other: Any, value: Any) -> bool:
    """Whether an entry was probably made from this value."""
    if type(other) is not type(value):
        return False
    if isinstance(value, str) and value:
        return other == value or other.startswith(f'{value}/')
    return bool(other == value)


def _entries(part: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """All entries that are not dicts or lists, with the keys that lead to them."""
    if isinstance(part, Mapping):
        items: Any = dict.items(part) if isinstance(part, dict) else part.items()
    elif isinstance(part, list):
        items = enumerate(part)
    else:
        if place:
            yield place, part
        return
    for key, value in items:
        yield from _entries(value, (*place, key))


def _get(cfg: Any, place: Place) -> Any:
    for key in place:
        cfg = dict.__getitem__(cfg, key) if isinstance(cfg, dict) else cfg[key]
    return cfg


def _set(cfg: Any, place: Place, value: Any) -> None:
    _get(cfg, place[:-1])[place[-1]] = value
