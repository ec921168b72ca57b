"""Checks before anything heavy is imported: a wrong name or path is refused in a fraction of a second.

What these checks let pass is checked again where it is used, which also serves Python.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from clipdense.methods import Method, get_method, list_methods
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import regular_file


def check_choice(value: str | None, known: Collection[str], option: str) -> None:
    """Check the value of an option that has a few values.

    Raises:
        InputError: another value.
    """
    if value is not None and value not in known:
        raise InputError(f'{option} must be one of {", ".join(known)}, got {value!r}.{nearest(value, known)}')


def check_config(config: str | None, safe: bool = False) -> None:
    """Check the name or path of a config.

    Raises:
        InputError: there is none; or, with ``safe``, it is code.
    """
    from clipdense.config.names import find_config, refuse_code

    if config is not None:
        path = find_config(config)
        if safe:
            refuse_code(path)


def check_device(device: str | None) -> None:
    """Check the name of a device, and that a GPU is there if it is asked for.

    Raises:
        InputError: it is unknown, or the computer has no GPU.
    """
    from clipdense.utils.device_names import device_name, refuse_missing_gpu

    if device is not None:
        refuse_missing_gpu(device_name(device))


def check_files(*files: str | Path | None) -> None:
    """Check that files exist, of those that are given.

    Raises:
        InputError: the first that does not, or is no regular file.
    """
    for file in files:
        if file is not None:
            regular_file(file)


def check_method(
    name: str | None, task: str, option: Sequence[str] | None = (), any_clip: bool | None = True
) -> None:
    """Check the name of a method, the form of its options and, if it is named, their names.

    Args:
        name: of the method; None for the default.
        task: what it is for.
        option: NAME=VALUE.
        any_clip: whether only methods for any CLIP are meant.

    Raises:
        InputError: an unknown method or option.
    """
    from clipdense.config import parse_options

    given = parse_options(option or [])
    if name is None:
        return
    known: dict[str, Method] = {one.name: one for one in list_methods(task, any_clip)}
    if name not in known and name not in {one.name for one in list_methods(task)}:
        raise InputError(
            f'method {name!r} is unknown for {task}; use {", ".join(known) or "none"}.{nearest(name, known)}'
        )
    get_method(name).check_options(given)


def check_templates(templates: str | None) -> None:
    """Check the name of a set of prompt templates.

    Raises:
        InputError: as ``get_templates``.
    """
    from clipdense.vocab.templates import get_templates

    if templates is not None:
        get_templates(templates)


def check_weights(weights: str | None) -> None:
    """Check the name or path of weights.

    Raises:
        InputError: as ``clipdense.weights.lookup.check_exists``.
    """
    from clipdense.weights.lookup import check_exists

    if weights is not None:
        check_exists(weights)
