"""Checks of the values in a training config, made before models and data are built."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from clipdense.utils.errors import InputError

_COUNTS = {  # lowest values of settings that are whole numbers
    'train_cfg.max_steps': 1,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'train_cfg.val_begin': 0,
    **{f'{part}_dataloader.batch_size': 1 for part in ('train', 'val', 'test')},
    **{f'{part}_dataloader.num_workers': 0 for part in ('train', 'val', 'test')},
}
_NUMBERS = ('optim_wrapper.optimizer.lr', 'optim_wrapper.optimizer.weight_decay')  # not negative


def check_values(cfg: Mapping[str, Any]) -> None:
    """Check lengths, batch sizes, numbers of workers, learning rate and work directory of a config.

    Raises:
        InputError: the first invalid setting, with its value.
    """
    for name, least in _COUNTS.items():
        value = _entry(cfg, name)
        check_count(name, value, least)
        if isinstance(value, float) and '_dataloader.' in name:  # torch takes integers only
            raise InputError(f'{name} must be an integer, such as {value:.0f}, got {value!r}')
    for name in _NUMBERS:
        value = _entry(cfg, name)
        if value is None or isinstance(value, Tensor):
            continue
        if not _is_number(value) or not isfinite(value) or value < 0:
            raise InputError(f'{name} must be a number of at least 0, such as 1e-3, got {value!r}')
    _check_folder(cfg.get('work_dir'))


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Check a whole number; None is accepted, and a float such as 1e4 where it is whole.

    Args:
        name: of the setting, for the message.
        value: of the setting.
        least: the lowest valid value.

    Raises:
        InputError: the value is no whole number, or too low.
    """
    if value is not None and not (_is_number(value) and value == value // 1 and value >= least):
        raise InputError(f'{name} must be a whole number and at least {least}, got {value!r}')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _entry(cfg: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name; None where a part is missing or is an object."""
    part: Any = cfg
    for key in name.split('.'):
        part = part.get(key) if hasattr(part, 'get') else None
    return part


def _check_folder(work_dir: str | None) -> None:
    """A folder can be made there: neither the path nor a parent is a file."""
    if work_dir is None:
        return
    path = Path(work_dir).expanduser()
    blocked = next((place for place in (path, *path.parents) if place.exists() and not place.is_dir()), None)
    if blocked:
        raise InputError(f'work_dir {work_dir}: {blocked} is a file; choose a folder or a new name')
