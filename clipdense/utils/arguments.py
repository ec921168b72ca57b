"""Checks of the arguments of a class or function that are given by name, as configs give them."""

from __future__ import annotations

import inspect
import types
from collections import abc
from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf, isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from .errors import InputError, nearest

_TEXT = {int: 'a whole number', float: 'a number', bool: 'true or false', str: 'text', type(None): 'none'}
_ANNOTATED = ('clipdense.', 'mmengine.', 'torch.')  # with annotations that are right
_MANY = (list, tuple, set, frozenset, abc.Sequence, abc.Iterable, abc.Collection)


def argument_names(builder: Callable[..., Any]) -> set[str] | None:
    """Names of the arguments that a config can give to a class or function; None if it accepts any name."""
    parameters = inspect.signature(builder).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters} - {'self', 'runner'}


def check_names(kind: Any, given: Iterable[str], where: str = '') -> None:
    """Check names of arguments of a class or function.

    Args:
        kind: class or function.
        given: the names.
        where: dotted name of the part of a config that has them, for messages.

    Raises:
        InputError: the first unknown name, with the nearest known one.
    """
    try:
        names = argument_names(kind)
    except (TypeError, ValueError):  # a builtin without a signature
        return
    for key in given:
        if names is not None and key not in names:
            known = [name for name in inspect.signature(kind).parameters if name in names]
            label = getattr(kind, '__name__', str(kind))
            place = f'{where}.{key}: ' if where else ''
            raise InputError(
                f'{place}{label} has no option {key!r}; its options are {", ".join(known) or "none"}.'
                f'{nearest(key, names)}'
            )


def check_arguments(
    kind: Any, given: Mapping[str, Any], where: str = '', later: Collection[str] = ()
) -> None:
    """Check arguments of a class or function: names, simple values, and, of ours, those that are missing.

    Args:
        kind: class or function.
        given: its arguments by name.
        where: dotted name of the part of a config that holds them, for messages.
        later: names of arguments that will be added.

    Raises:
        InputError: the first mistake, with the name of the argument.
    """
    try:
        parameters = inspect.signature(kind).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return
    check_names(kind, given, where)
    label = getattr(kind, '__name__', str(kind))
    prefix = f'{where}.' if where else ''
    hints = _hints(kind) if kind.__module__.startswith(_ANNOTATED) else {}
    for key, value in given.items():
        if key in hints and not _fits(value, hints[key]):
            raise InputError(f'{prefix}{key} must be {_text(hints[key])}, got {_shown(value)}')
    if kind.__module__.startswith('clipdense.'):
        missing = [
            one.name
            for one in parameters.values()
            if one.default is one.empty
            and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
            and one.name not in given
            and one.name not in later
        ]
        if missing:
            raise InputError(f'{prefix}{missing[0]} is missing: {label} needs {", ".join(missing)}')


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return get_type_hints(kind.__init__ if isinstance(kind, type) else kind)  # type: ignore[misc]
    except Exception:  # names that are imported for type checkers only
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value fits an annotation; True for annotations that are not simple."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Annotated:
        return _fits(value, inner[0])
    if origin is Literal:
        return value in inner
    if hint in (int, float):
        return _is_number(value) and (hint is float or isinstance(value, Integral) or _is_whole(value))
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    if hint is Tensor:
        return not isinstance(value, str | Mapping | list | tuple) and value is not None
    if hint is Path:
        return isinstance(value, str | Path)
    if (origin or hint) in _MANY:
        if isinstance(value, str | bool | int | float | Mapping) or value is None:
            return False
        return not isinstance(value, list | tuple) or _all_fit(value, origin, inner)
    if (origin or hint) in (dict, abc.Mapping):
        return isinstance(value, Mapping)
    return True


def _all_fit(values: list | tuple, origin: Any, inner: tuple) -> bool:
    if origin is tuple and inner and inner[-1] is not ...:
        return len(values) == len(inner) and all(map(_fits, values, inner))
    return not inner or all(_fits(one, inner[0]) for one in values)


def _text(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return ' or '.join(_text(one) for one in inner)
    if origin is Literal:
        return f'one of {", ".join(map(repr, inner))}'
    if origin in _MANY and inner:
        return (
            f'a list of {_text(inner[0])}' if inner[-1] is ... or len(inner) == 1 else f'{len(inner)} values'
        )
    if origin in (dict, abc.Mapping) or hint is dict:
        return 'a part (dict)'
    if hint is Path:
        return 'a path'
    return _TEXT.get(hint, getattr(hint, '__name__', str(hint)))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f'{text[:50]} ... ({type(value).__name__})'


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and value == value


def _is_whole(value: Any) -> bool:
    return value == inf or (isfinite(value) and value == int(value))
