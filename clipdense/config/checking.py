"""Checks of every ``dict(type=..., ...)`` of a config against the class that it builds."""

from __future__ import annotations

import inspect
import types
from collections import abc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mmengine.config import Config
from mmengine.utils import get_object_from_string
from torch import Tensor

from clipdense.utils.errors import InputError, nearest, one_line

from .options import argument_names
from .types import known_names, only_one

_ADDED = {'type', '_scope_', '_delete_', 'priority', 'constructor', 'paramwise_cfg', 'convert_to_iter_based'}
_GIVEN_LATER = {  # by the runner, the loader, or the part around
    *('runner', 'optimizer', 'optim_wrapper', 'params', 'dataloader', 'evaluator', 'dataset', 'seed'),
    *('batch_size', 'steps', 'sampler', 'optim_wrapper_cfg', 'clip', 'vit', 'resnet'),
}
_TEXT = {int: 'a whole number', float: 'a number', bool: 'true or false', str: 'text', type(None): 'none'}
_ANNOTATED = ('clipdense.', 'mmengine.', 'torch.')  # with annotations that are right
_MANY = (list, tuple, set, frozenset, abc.Sequence, abc.Iterable, abc.Collection)
_BUILD_ERRORS = (TypeError, ValueError, LookupError, AttributeError, OSError, RuntimeError, AssertionError)


def check_parts(value: Any, where: str = '') -> None:
    """Check the types of a config and their arguments: names, those that are missing, and simple values.

    Args:
        value: a config, or a part of one.
        where: its dotted name.

    Raises:
        InputError: the first mistake, with the dotted name of the entry.
    """
    if isinstance(value, Config):
        value = {key: item for key, item in value.items() if key not in value._imported_names}
    if isinstance(value, list | tuple):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, Mapping):
        return
    if 'type' in value:
        _check_part(value, where)
    for key, item in value.items():
        check_parts(item, f'{where}.{key}' if where else str(key))


@contextmanager
def named_parts(cfg: Mapping[str, Any] | Config) -> Iterator[None]:
    """Name the part of ``cfg`` in errors of building it.

    Raises:
        InputError: the error, with the dotted name of the part that could not be built.
    """
    try:
        yield
    except _BUILD_ERRORS as error:
        part = getattr(error, 'part', None)
        if part is None:
            raise
        where = next(_places(cfg, part), '')
        if isinstance(error, InputError):
            if not where or where in str(error):
                raise
            raise type(error)(f'{where}: {error}') from error
        kind = getattr(part['type'], '__name__', part['type'])
        reason = one_line(error) if str(error) else type(error).__name__
        raise InputError(f'{where or "config"}: {kind} cannot be built: {reason}') from error


def _check_part(part: Mapping[str, Any], where: str) -> None:
    kind = _class(part['type'], f'{where}.type' if where else 'type')
    try:
        names = None if kind is None else argument_names(kind)
    except (TypeError, ValueError):  # a builtin without a signature
        return
    if kind is None:
        return
    label = getattr(kind, '__name__', str(kind))
    parameters = inspect.signature(kind).parameters
    hints = _hints(kind) if kind.__module__.startswith(_ANNOTATED) else {}
    for key, value in part.items():
        if key in _ADDED:
            continue
        if names is not None and key not in names:
            raise InputError(
                f'{where}.{key}: {label} has no argument {key!r}.{nearest(key, names)} '
                f'It takes {", ".join(name for name in parameters if name in names) or "none"}'
            )
        if key in hints and not _fits(value, hints[key]):
            raise InputError(f'{where}.{key} must be {_text(hints[key])}, got {_shown(value)}')
    if kind.__module__.startswith('clipdense.'):
        given = {*part, *_GIVEN_LATER, getattr(kind, 'weights_argument', None)}
        missing = [
            one.name
            for one in parameters.values()
            if one.default is one.empty
            and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
            and one.name not in given
        ]
        if missing:
            raise InputError(f'{where}.{missing[0]} is missing: {label} needs {", ".join(missing)}')


def _class(kind: Any, where: str) -> Any:
    """The class or function; None where it is looked up by its name when the part is built."""
    if not isinstance(kind, str):
        if not callable(kind):
            raise InputError(f'{where} must be a class, or the name of one, got {kind!r}')
        return kind
    if '.' in kind:
        found = get_object_from_string(kind)
        if found is None and kind.split('.')[0] not in ('mmdet', 'mmengine', 'mmcv', 'clipdense'):
            raise InputError(f'{where}: there is no {kind!r}')
        return found if callable(found) else None
    if kind not in known_names():
        close = nearest(kind, known_names())
        raise InputError(f'{where}: no class {kind!r} is registered in clipdense or mmengine.{close}')
    return only_one(kind)


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
        number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
        return number and (
            hint is float or value in (float('inf'), int(value) if abs(value) < 1e300 else None)
        )
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


def _places(value: Any, part: Mapping[str, Any], where: str = '') -> Iterator[str]:
    """Dotted names of the parts of a config that a built part comes from, innermost first."""
    if isinstance(value, list | tuple):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, Mapping | Config):
        return
    for key, item in value.items():
        yield from _places(item, part, f'{where}.{key}' if where else str(key))
    if isinstance(value, Mapping) and value.get('type') == part['type'] and _comes_from(part, value):
        yield where


def _comes_from(part: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
    """Whether a part has the entries of its source, and others that were added."""
    try:
        return all(key in part and bool(part[key] == item) for key, item in source.items())
    except (RuntimeError, ValueError):  # tensors and arrays
        return False
