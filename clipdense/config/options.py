"""Entries that options replace, and the names and plain data of the parts of a config."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mmengine.config import Config

from clipdense.utils.arguments import argument_names
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.packages import imported_object

from .variables import check_used


def part_class(part: Mapping[str, Any] | None) -> Any:
    """The class or function that builds a part of a config, also for configs saved as text.

    Returns:
        A class or function, or None where there is none.
    """
    kind = (part or {}).get('type')
    return kind if kind is None or callable(kind) else imported_object(kind)


def plain_config(value: Any, strict: bool = False) -> Any:
    """Entries of a config as plain data, classes and functions as dotted names.

    Args:
        value: a config, or a part of one.
        strict: raise for objects, instead of inserting a placeholder.

    Raises:
        InputError: with ``strict``, an object.
    """
    if isinstance(value, Mapping):
        return {str(key): plain_config(item, strict) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain_config(item, strict) for item in value)
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if hasattr(value, '__qualname__'):
        return f'{value.__module__}.{value.__qualname__}'
    if strict:
        raise InputError(f'the config contains a {type(value).__name__}, which is not plain data')
    return f'<{type(value).__name__}>'


def check_option(cfg: Config, key: str, settings: Mapping[str, Collection[str]]) -> None:
    """An option must be an existing entry, or an argument of the class that the part builds."""
    part: Any = cfg
    *parents, last = key.split('.')
    for depth, name in enumerate(parents):
        inside = _child(part, name)
        if inside is None:
            missing = '.'.join(parents[: depth + 1])
            raise InputError(
                f'option {key}: the config has no entry {missing!r}.{nearest(name, _names(part))}'
            )
        part = inside
    if _child(part, last) is not None or (isinstance(part, Mapping | Config) and last in part):
        if not parents and '' in settings:
            check_used(cfg._cfg_dict, last, settings[''])
        return
    accepted = _accepted(part, settings.get('.'.join(parents)))
    if accepted is not None and last not in accepted:
        known = [*_names(part), *accepted]
        raise InputError(f'option {key}: unknown entry {last!r}.{nearest(last, known)}')


def _child(part: Any, name: str) -> Any:
    if isinstance(part, (list, tuple)):
        return part[int(name)] if name.isdigit() and int(name) < len(part) else None
    return part.get(name) if isinstance(part, (Mapping, Config)) else None


def _names(part: Any) -> list[str]:
    return list(part.keys()) if isinstance(part, (Mapping, Config)) else []


def _accepted(part: Any, settings: Collection[str] | None) -> Collection[str] | None:
    """Names of settings that a part may have; None if any."""
    if not isinstance(part, (Mapping, Config)):
        return ()
    kind = part.get('type')
    if isinstance(part, Config) or kind is None:
        return settings
    names = None if isinstance(kind, str) else argument_names(kind)
    return names if names is None else {*names, *(settings or ())}  # paramwise_cfg of an optimizer wrapper
