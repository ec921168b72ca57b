"""Checks of the values in a training config, made before models and data are built."""

from __future__ import annotations

import difflib
import logging
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from inspect import signature
from math import isfinite
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, IterableDataset

from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import check_output_folder

_COUNTS = {  # lowest values of settings that are whole numbers
    'train_cfg.max_steps': 1,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'train_cfg.val_begin': 0,
    **{f'{part}_dataloader.batch_size': 1 for part in ('train', 'val', 'test')},
    **{f'{part}_dataloader.num_workers': 0 for part in ('train', 'val', 'test')},
    **{f'{part}_dataloader.prefetch_factor': 1 for part in ('train', 'val', 'test')},
    'optim_wrapper.accumulative_counts': 1,
}
_NUMBERS = (  # not negative
    *(f'optim_wrapper.optimizer.{name}' for name in ('lr', 'weight_decay', 'momentum', 'eps')),
    *(f'{part}_dataloader.timeout' for part in ('train', 'val', 'test')),
)
_COUNTS_OF_PARTS = {  # of any part of ours: lowest values
    'warmup': 0,
    'micro_batch': 1,
    'max_skips': 0,
    'samples_per_epoch': 1,
    'num_images': 1,
    'shuffle': 0,
}
_CLIP_GRAD = ('max_norm', 'norm_type', 'error_if_nonfinite', 'foreach', 'type', 'clip_value')

_LOG_LEVELS = ('CRITICAL', 'ERROR', 'WARNING', 'WARN', 'INFO', 'DEBUG', 'NOTSET')  # and their numbers
_LISTS = ('param_scheduler', 'custom_hooks', 'val_evaluator', 'test_evaluator')
_SECTIONS = (
    *_LISTS,
    *(f'{part}_dataloader' for part in ('train', 'val', 'test')),
    *(f'{part}_cfg' for part in ('train', 'val', 'test', 'env')),
    *('model', 'optim_wrapper', 'default_hooks', 'randomness', 'visualizer'),
)


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
    _check_clip_grad(_entry(cfg, 'optim_wrapper.clip_grad'))
    _check_warmup(cfg)
    for part in ('train', 'val', 'test'):
        _check_loader(cfg.get(f'{part}_dataloader'), f'{part}_dataloader')
    for section in _SECTIONS:
        _check_counts(cfg.get(section), section)
    _check_folder(cfg.get('work_dir'))


def warn_of_data_root(written: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
    """Say where ``data_root`` is set and nothing has it, as in configs of other MMEngine projects.

    Args:
        written: the config as it is in its file; options may replace all that has the folder, which is fine.
        cfg: the same with options, of which ``data_root`` may be one.
    """
    root = cfg.get('data_root')
    if not isinstance(root, str) or not root:
        return
    where = written if written.get('data_root') == root else cfg
    texts = (value for name, part in where.items() if name != 'data_root' for value in _texts(part))
    if not any(text.startswith(root.rstrip('/')) for text in texts):
        warnings.warn(
            f'data_root={root!r} is not used by any entry of the config, and has no effect: write '
            "'{{data_root}}' where a dataset has its folder (root=, images=, data=), or a path that begins "
            'with it',
            stacklevel=3,
        )


def _texts(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, Mapping | list | tuple):
        for value in part.values() if isinstance(part, Mapping) else part:
            yield from _texts(value)


def _check_warmup(cfg: Mapping[str, Any]) -> None:
    """Say where the learning rate does not reach its peak before the run ends."""
    steps = _entry(cfg, 'train_cfg.max_steps')
    schedules = cfg.get('param_scheduler') or {}
    parts = schedules if isinstance(schedules, list) else [schedules, *getattr(schedules, 'values', list)()]
    for part in parts:
        warmup = part.get('warmup') if isinstance(part, Mapping) else None
        if _is_number(warmup) and _is_number(steps) and warmup >= steps:
            warnings.warn(
                f'param_scheduler.warmup={warmup} is not shorter than train_cfg.max_steps={steps}: the '
                'learning rate only increases',
                stacklevel=2,
            )


def check_tokenizer(model: Any, dataset: Any) -> None:
    """Say where the dataset and the CLIP of a model turn captions into ids by different tables.

    A CLIP whose own tokenizer does not fit its vocabulary, as one that is built for another, is not compared.
    """
    clip = getattr(model, 'clip', None)
    own, given = getattr(clip, 'tokenizer', None), getattr(dataset, 'tokenizer', None)
    given = getattr(given, 'tokenizer', given)  # NounPrompts has one inside
    try:
        tables = [getattr(tokenizer, 'identity', None) for tokenizer in (own, given)]
    except InputError:  # its files cannot be read; it says so when it is used
        return
    if None in tables or getattr(own, 'vocab_size', None) not in (None, clip.text.size.vocab_size):  # type: ignore[union-attr]
        return
    kinds = [str(table).split()[:2] for table in tables]  # without the length of the context
    if kinds[0] != kinds[1]:
        warnings.warn(
            f'the dataset tokenizes captions by {kinds[1][0]}, but the model by {kinds[0][0]}, or by another '
            'table: set train_dataloader.dataset.tokenizer to the tokenizer of the model',
            stacklevel=2,
        )


def _check_clip_grad(clip_grad: Any) -> None:
    """What torch takes, which would fail in the first step only."""
    name = 'optim_wrapper.clip_grad'
    if not isinstance(clip_grad, Mapping | None):
        raise InputError(f'{name} must be a part such as {name}=dict(max_norm=1.0), got {clip_grad!r}')
    for key, value in (clip_grad or {}).items():
        if key not in _CLIP_GRAD:
            raise InputError(f'{name}.{key}: unknown entry.{nearest(key, _CLIP_GRAD)}')
        if key in ('max_norm', 'clip_value') and not (_is_number(value) and value > 0):
            raise InputError(f'{name}.{key} must be a number above 0, got {value!r}')


def _check_loader(loader: Any, name: str) -> None:
    """The data set of a loader, and its settings that are true or false."""
    if not isinstance(loader, Mapping):
        return
    dataset = loader.get('dataset')
    if dataset is None or isinstance(dataset, str | int | float | list):
        raise InputError(f'{name}.dataset must be a part such as dict(type=...), got {dataset!r}')
    if 'batch_size' in loader and loader['batch_size'] is None and 'batch_sampler' not in loader:
        raise InputError(f'{name}.batch_size must be a whole number and at least 1, got None')
    for key in ('drop_last', 'pin_memory', 'persistent_workers'):
        if not isinstance(loader.get(key, False), bool):
            raise InputError(f'{name}.{key} must be true or false, got {loader[key]!r}')


def _check_counts(value: Any, where: str) -> None:
    """Settings of parts of ours that are counts."""
    items = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    kind = value.get('type') if isinstance(value, Mapping) else None
    ours = isinstance(kind, str) or getattr(kind, '__module__', '').startswith('clipdense.')
    for key, item in items:
        if ours and key in _COUNTS_OF_PARTS and not isinstance(item, Mapping | list | bool):
            check_count(f'{where}.{key}', item, _COUNTS_OF_PARTS[key])
        _check_counts(item, f'{where}.{key}')


def check_start(cfg: Mapping[str, Any]) -> None:
    """Check what is used before anything is built: seed, launcher, log level, start of workers, loops.

    Raises:
        InputError: the first invalid setting, with its value.
    """
    seed = _entry(cfg, 'randomness.seed')
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise InputError(f'the random seed must be a whole number of 0 to {2**32 - 1}, got {seed!r}')
    choices = {
        'launcher': (None, 'none', 'pytorch', 'slurm', 'mpi'),
        'log_level': (None, *_LOG_LEVELS, *map(logging.getLevelName, _LOG_LEVELS)),
        'env_cfg.mp_cfg.mp_start_method': (None, *get_all_start_methods()),
    }
    for name, known in choices.items():
        value = _entry(cfg, name)
        if value not in known:
            shown = ', '.join(one for one in known if isinstance(one, str))
            raise InputError(f'{name} must be one of {shown}, got {value!r}')
    if cfg.get('launcher') == 'pytorch' and 'RANK' not in os.environ:
        raise InputError("launcher='pytorch' is for torchrun: start with torchrun, or remove the launcher")
    for stage in ('val', 'test'):
        parts = [f'{stage}_{part}' for part in ('dataloader', 'cfg', 'evaluator')]
        missing = [part for part in parts if cfg.get(part) is None]
        if 0 < len(missing) < len(parts):
            raise InputError(f'{", ".join(parts)} belong together: {" and ".join(missing)} is missing')


def check_sections(cfg: Mapping[str, Any], settings: Mapping[str, Collection[str] | None]) -> None:
    """Check that the known entries of a config are parts, and the names in those that have no ``type``.

    Args:
        cfg: the config.
        settings: names that a part without ``type`` may have; those of '' are names of known entries.

    Raises:
        InputError: the first mistake, with its dotted name.
    """
    for name in _SECTIONS:
        value = cfg.get(name)
        if isinstance(value, str | int | float) or (isinstance(value, list) and name not in _LISTS):
            raise InputError(
                f'{name} must be a part such as {name}=dict(...), got a {type(value).__name__}: {value!r}'
            )
        known = settings.get(name)
        if isinstance(value, Mapping) and 'type' not in value and known is not None:
            for key in value:
                if key not in known:
                    raise InputError(f'{name}.{key}: unknown entry.{nearest(key, known)}')
    for name, value in cfg.items():
        close = difflib.get_close_matches(name, _SECTIONS, n=1, cutoff=0.85)
        if (
            isinstance(value, Mapping | list)
            and close
            and name not in _SECTIONS
            and cfg.get(close[0]) is None
        ):
            raise InputError(f'{name}: unknown entry. Did you mean {close[0]!r}?')


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Check a whole number; None is accepted, and a float such as 1e4 where it is whole.

    Args:
        name: of the setting, for the message.
        value: of the setting.
        least: the lowest valid value.

    Raises:
        InputError: the value is not a whole number, or too low.
    """
    if value is not None and not (_is_number(value) and value == value // 1 and value >= least):
        raise InputError(f'{name} must be a whole number and at least {least}, got {value!r}')


def takes(dataset: Any, name: str) -> bool:
    """Whether a data set is given as a config, and its class has an argument of this name."""
    if not isinstance(dataset, dict) or 'type' not in dataset:
        return False
    kind = dataset['type']
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    return callable(kind) and name in signature(kind).parameters


def with_batch_size(dataset: Any, batch_size: int) -> Any:
    """The config of a data set that needs the batch size of its loader, such as shards, with that size.

    Raises:
        InputError: the config has a batch size of its own.
    """
    if not takes(dataset, 'batch_size'):
        return dataset
    if 'batch_size' in dataset:
        raise InputError(
            'train_dataloader.dataset.batch_size: the batch size is given once, as '
            f'train_dataloader.batch_size={dataset["batch_size"]}; remove it from the data set'
        )
    return {'batch_size': batch_size, **dataset}


def check_batch_size(loader: DataLoader) -> None:
    """Check that a stream and its loader have one batch size; else resuming is not exact.

    Raises:
        InputError: other batches.
    """
    own = getattr(loader.dataset, 'batch_size', None)
    if isinstance(loader.dataset, IterableDataset) and own not in (None, loader.batch_size):
        raise InputError(
            f'{type(loader.dataset).__name__} was built with batch_size={own} and its loader with '
            f'batch_size={loader.batch_size}; give both the same'
        )


def leave_out_single(loader: DataLoader, model: Any) -> str:
    """Leave out the last batch of each epoch where it has one sample, from which the model cannot learn.

    Batch norm has no variance over one sample, and some models refuse one in ``check_batch``.  Samples are
    shuffled, so another one is left out in each epoch.

    Returns:
        What to tell the user; '' if nothing was changed.
    """
    batches = loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset) or getattr(batches, 'drop_last', True):
        return ''
    size, count = getattr(batches, 'batch_size', None), len(loader.sampler)  # type: ignore[arg-type]
    if not size or size == 1 or count < size or count % size != 1 or not _needs_two(model):
        return ''
    batches.drop_last = True  # type: ignore[union-attr]
    return (
        f'{count} samples in batches of {size} leave a batch of one, from which this model cannot learn: '
        'it is left out, another sample in each epoch'
    )


def _needs_two(model: Any) -> bool:
    """Whether a model in training cannot use a batch of one sample."""
    if any(isinstance(part, _BatchNorm) and part.training for part in model.train().modules()):
        return True
    try:
        getattr(model, 'check_batch', lambda *_, **__: None)(1, last=True)
    except InputError:
        return True
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _entry(cfg: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name; None where a part is missing or is an object."""
    part: Any = cfg
    for key in name.split('.'):
        part = part.get(key) if hasattr(part, 'get') else None
    return part


def _check_folder(work_dir: str | None) -> None:
    """A folder can be made there."""
    if work_dir is None:
        return
    try:
        check_output_folder(Path(work_dir).expanduser())
    except InputError as error:
        raise InputError(f'work_dir: {error}; choose another one') from error
