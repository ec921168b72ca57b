"""Copying and merging the entries of configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict

from clipdense.utils.errors import InputError, nearest

_DELETE = '_delete_'  # of MMEngine: replace the part instead of changing entries of it


def copied(value: Any) -> Any:
    """A copy of dicts, lists and tuples; objects inside them, such as a data set, stay the same."""
    if isinstance(value, dict):  # dict.items: ConfigDict.items would import what a config names
        return ConfigDict({key: copied(item) for key, item in dict.items(value)})
    if type(value) in (list, tuple):
        return type(value)(copied(item) for item in value)
    return value


def merge(base: Any, changes: Mapping[str, Any], where: str = '') -> None:
    """Change entries of a config in place: parts are merged, other values replaced.

    Args:
        base: a dict, or a list whose entries are named by their index.
        changes: new values; ``_delete_=True`` in a part replaces it as a whole.
        where: dotted name of ``base``, for messages.

    Raises:
        InputError: an entry of a list that the list does not have.
    """
    for name, value in changes.items():
        inside = f'{where}.{name}' if where else str(name)
        key: Any = _index(base, name, inside) if isinstance(base, list) else name
        old = base[key] if isinstance(base, list) else base.get(key)
        if isinstance(old, tuple):
            old = list(old)
        if isinstance(value, Mapping):
            value = copied(value)
            if not value.pop(_DELETE, False) and isinstance(old, Mapping | list):
                merge(old, value, inside)
                value = old
        base[key] = value


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{'a.b': 1}`` -> ``{'a': {'b': 1}}``."""
    changes: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split('.')
        part = changes
        for name in parents:
            if not isinstance(part.setdefault(name, {}), dict):
                raise InputError(f'options {name} and {key} cannot be combined: set the part or its entries')
            part = part[name]
        part[last] = value
    return changes


def _index(base: list, name: str, where: str) -> int:
    if name.isdigit() and int(name) < len(base):
        return int(name)
    known = [str(index) for index in range(len(base))]
    raise InputError(
        f'{where}: the list has {len(base)} entries, named 0 to {len(base) - 1}, and none {name!r}'
        f'{nearest(name, known)}; to replace the list, write a list'
    )
