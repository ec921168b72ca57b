"""Checks of every ``dict(type=..., ...)`` of a config against the class that it builds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config

from clipdense.utils.arguments import check_arguments
from clipdense.utils.errors import InputError, nearest, one_line
from clipdense.utils.packages import imported_object

from .types import known_names, only_one

_ADDED = {'type', '_scope_', '_delete_', 'priority', 'constructor', 'paramwise_cfg', 'convert_to_iter_based'}
_GIVEN_LATER = {  # by the runner, the loader, or the part around
    *('runner', 'optimizer', 'optim_wrapper', 'params', 'dataloader', 'evaluator', 'dataset', 'seed'),
    *('batch_size', 'steps', 'sampler', 'optim_wrapper_cfg', 'clip', 'vit', 'resnet', 'embed_dim'),
}
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
    if kind is not None:
        given = {key: value for key, value in part.items() if key not in _ADDED}
        check_arguments(kind, given, where, {*_GIVEN_LATER, getattr(kind, 'weights_argument', '')})


def _class(kind: Any, where: str) -> Any:
    """The class or function; None where it is looked up by its name when the part is built."""
    if not isinstance(kind, str):
        if not callable(kind):
            raise InputError(f'{where} must be a class, or the name of one, got {kind!r}')
        return kind
    if '.' in kind:
        found = imported_object(kind)
        if found is None and kind.split('.')[0] not in ('mmdet', 'mmengine', 'mmcv', 'clipdense'):
            raise InputError(f'{where}: there is no {kind!r}')
        return found if callable(found) else None
    if kind not in known_names():
        close = nearest(kind, known_names())
        raise InputError(f'{where}: no class {kind!r} is registered in clipdense or mmengine.{close}')
    return only_one(kind)


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
