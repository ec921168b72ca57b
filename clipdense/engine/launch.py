"""``train(config)`` and ``test(config, checkpoint)``: what tools/ and the command line call."""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.utils import get_object_from_string
from torch.utils.data import DataLoader

from clipdense.utils.dist import is_main
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import atomic_write

from .checkpointing import newest_checkpoint
from .hooks import EvaluationHook
from .loops import TrainLoop
from .optimizer import PrecisionOptimWrapper
from .runner import Runner

_PACKAGE = Path(__file__).resolve().parents[1]
_HOME = _PACKAGE if (_PACKAGE / 'configs').is_dir() else _PACKAGE.parent  # of configs: a wheel, a checkout
_SUFFIXES = ('.py', '.json', '.yaml', '.yml')
_WORDS = {'true': True, 'false': False, 'none': None, 'null': None}
_BUILDERS = {  # what takes the keys of a part that has no type
    '': Runner,
    'train_dataloader': DataLoader,
    'val_dataloader': DataLoader,
    'test_dataloader': DataLoader,
    'train_cfg': TrainLoop,
    'optim_wrapper': PrecisionOptimWrapper,
    'randomness': Runner.set_randomness,
}
_FREE = {
    'env_cfg',
    'custom_imports',
    'log_processor',
    'model_wrapper_cfg',
    'sync_bn',
    'randomness',
    'load_from',
    'resume',
}


def train(
    config: str | Path | Config,
    work_dir: str | Path | None = None,
    resume: bool | str | Path = False,
    seed: int | None = None,
    options: Sequence[str] | Mapping[str, Any] = (),
    strict_resume: bool = False,
) -> Runner:
    """Train by a config, alone or as one of the processes that torchrun started.

    Args:
        config: a file, the name of a recipe (``contrastive/quickstart``), or a config.
        work_dir: for logs and checkpoints; ``work_dirs/<name of the config>`` by default.
        resume: True continues from the newest good checkpoint in ``work_dir``, if any; a path from that.
        seed: of weights, order and augmentation.
        options: ``['key.of.entry=value', ...]`` or a dict, replacing entries of the config.
        strict_resume: an error, instead of an older checkpoint, where the newest is damaged.

    Returns:
        The runner, trained.

    Raises:
        InputError: whatever the user can mend, in one line.
    """
    cfg = _prepared(config, work_dir, options)
    missing = [key for key in ('train_dataloader', 'train_cfg', 'optim_wrapper') if cfg.get(key) is None]
    if missing:
        raise InputError(f'{_name(cfg)} cannot train: it has no {", ".join(missing)}')
    if seed is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': seed}
    found = newest_checkpoint(cfg.work_dir, strict_resume) if resume is True else resume
    if found:
        if not Path(found).is_file():
            raise InputError(f'no checkpoint {found} to resume from: give a step_*.pth, or --resume alone')
        cfg.load_from, cfg.resume = str(found), True
    runner = Runner.from_cfg(cfg)
    if resume and not found:
        runner.logger.warning(f'nothing to resume in {cfg.work_dir}: starting from the beginning')
    try:
        runner.train()
    finally:
        if runner.distributed:
            dist.destroy_process_group()
    return runner


def test(
    config: str | Path | Config,
    checkpoint: str | Path,
    work_dir: str | Path | None = None,
    options: Sequence[str] | Mapping[str, Any] = (),
) -> dict[str, float]:
    """Measure weights by a config: its test loop, and the evaluations of its ``EvaluationHook``.

    Args:
        config, work_dir, options: as in ``train``.
        checkpoint: any file of weights that ``weights.io`` reads and that fits the model; for a training-free
            model, whose class names a ``weights_argument``, what that argument takes.

    Returns:
        Metrics by name, which are also in ``test_metrics.json`` of the work directory.

    Raises:
        InputError: whatever the user can mend, in one line.
    """
    cfg = _prepared(config, work_dir, options)
    for part in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg[part] = None
    argument = getattr(part_class(cfg.model), 'weights_argument', None)
    cfg.load_from, cfg.resume = None if argument else str(checkpoint), False
    if argument:  # a training-free model is built around weights
        cfg.model[argument] = str(checkpoint)
    runner = Runner.from_cfg(cfg)
    hooks = [hook for hook in runner.hooks if isinstance(hook, EvaluationHook)]
    if cfg.get('test_dataloader') is None and not hooks:
        raise InputError(f'{_name(cfg)} has nothing to test: give test_dataloader or an EvaluationHook')
    runner.load_or_resume()
    metrics = dict(runner.test()) if cfg.get('test_dataloader') is not None else {}
    for hook in hooks:
        metrics |= hook.evaluate(runner.model)
    if is_main():
        with atomic_write(Path(runner.work_dir) / 'test_metrics.json', 'w') as file:
            json.dump({'checkpoint': str(checkpoint), **metrics}, file, indent=2, default=float)
    return metrics


def load_config(config: str | Path | Config, options: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Read a config and replace entries of it.

    Raises:
        InputError: no such file, a mistake in it, or an option that it has no place for.
    """
    cfg = config.copy() if isinstance(config, Config) else _read_config(_find_config(config))
    values = dict(options) if isinstance(options, Mapping) else parse_options(options)
    for key in values:
        _check_option(cfg, key)
    try:
        cfg.merge_from_dict(values)
    except Exception as error:
        raise InputError(f'options do not fit {_name(cfg)}: {error}') from error
    return cfg


def part_class(part: Mapping[str, Any] | None) -> Any:
    """What a part of a config is built by; a config that a run has left names it as text.

    Returns:
        A class or function, or None where there is none.
    """
    kind = (part or {}).get('type')
    return kind if kind is None or callable(kind) else get_object_from_string(kind)


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """``['a.b=1e-3', 'c=[1,2]', 'd=word']`` -> values by dotted key; what is no Python literal is text.

    Raises:
        InputError: an option without '='.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition('=')
        if not equals or not key.strip():
            raise InputError(f'option {option!r} is not of the form name=value')
        try:
            value = (
                _WORDS[text.strip().lower()]
                if text.strip().lower() in _WORDS
                else ast.literal_eval(text.strip())
            )
        except (ValueError, SyntaxError):
            value = text
        parsed[key.strip()] = value
    return parsed


def _prepared(
    config: str | Path | Config, work_dir: Any, options: Sequence[str] | Mapping[str, Any]
) -> Config:
    cfg = load_config(config, options)
    if cfg.get('model') is None:
        raise InputError(f'{_name(cfg)} has no model')
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(cfg.filename or 'unnamed').stem)
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:  # set by torchrun
        cfg.setdefault('launcher', 'pytorch')
    return cfg


def _name(cfg: Config) -> str:
    return str(cfg.filename or 'the config')


def _find_config(config: str | Path) -> Path:
    path = Path(config).expanduser()
    if path.is_file() and path.suffix in _SUFFIXES:
        return path
    if path.is_file():
        raise InputError(f'{path} is not a config: those end in {", ".join(_SUFFIXES)}')
    folder = _HOME / 'configs'
    recipes = {str(file.relative_to(folder)): file for file in sorted(folder.rglob('*.py'))}
    recipes = {name: file for name, file in recipes.items() if not name.startswith('_')}
    known = {name.removesuffix('.py'): file for name, file in recipes.items()}
    wanted = str(config).removeprefix('configs/').removesuffix('.py')
    ends = [name for name in known if name == wanted or name.endswith(f'/{wanted}')]
    if len(ends) == 1:
        return known[ends[0]]
    if ends:
        raise InputError(f'several recipes are called {wanted!r}: {", ".join(ends)}')
    beside = {file.stem: file for file in path.parent.glob('*') if file.suffix in _SUFFIXES}
    close = difflib.get_close_matches(path.stem, beside, n=1, cutoff=0.7)
    hint = f' Did you mean {str(beside[close[0]])!r}?' if close else nearest(wanted, known)
    raise InputError(f'no config {str(config)!r}.{hint}')


def _read_config(path: Path) -> Config:
    try:
        with _recipes_by_name():
            cfg = Config.fromfile(path)
        for _ in _entries(cfg):  # imports what it names
            pass
    except SyntaxError as error:
        raise InputError(f'{path}, line {error.lineno}: {error.msg}') from error
    except Exception as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        if 'from ..' in reason:  # a copy of a recipe, away from its bases
            reason += '; a config of your own says `from clipdense.configs.FOLDER.NAME import *` there'
        raise InputError(f'{path} cannot be read as a config: {reason}') from error
    return cfg


@contextmanager
def _recipes_by_name() -> Iterator[None]:
    """``from clipdense.configs.vild.vild_coco_r50 import *`` finds the recipe from anywhere.

    MMEngine finds the package of such a base by a function that needs ``pkg_resources``, which setuptools
    no longer has, and that knows no editable install; there is no other way in than the function's name.
    """
    find = mmengine_config.get_installed_path
    mmengine_config.get_installed_path = lambda name: str(_HOME) if name == 'clipdense' else find(name)
    try:
        yield
    finally:
        mmengine_config.get_installed_path = find


def _entries(part: Any) -> Iterator[Any]:
    values = part.values() if isinstance(part, Mapping) else part if isinstance(part, (list, tuple)) else ()
    if isinstance(part, Config):
        values = [value for _, value in part.items()]
    for value in values:
        yield value
        yield from _entries(value)


def _check_option(cfg: Config, key: str) -> None:
    """An option must name an entry, or something that what is built from the part would take."""
    part: Any = cfg
    *parents, last = key.split('.')
    for depth, name in enumerate(parents):
        inside = _child(part, name)
        if inside is None:
            missing = '.'.join(parents[: depth + 1])
            raise InputError(f'option {key}: the config has no {missing!r}.{nearest(name, _names(part))}')
        part = inside
    if _child(part, last) is not None or (isinstance(part, Mapping | Config) and last in part):
        return
    accepted = _accepted(part, '.'.join(parents))
    if accepted is not None and last not in accepted and not (not parents and last in _FREE):
        known = [*_names(part), *accepted]
        raise InputError(f'option {key}: {last!r} is not known there.{nearest(last, known)}')


def _child(part: Any, name: str) -> Any:
    if isinstance(part, (list, tuple)):
        return part[int(name)] if name.isdigit() and int(name) < len(part) else None
    return part.get(name) if isinstance(part, (Mapping, Config)) else None


def _names(part: Any) -> list[str]:
    return list(part.keys()) if isinstance(part, (Mapping, Config)) else []


def _accepted(part: Any, where: str) -> set[str] | None:
    """Names of arguments; None where anything goes."""
    if not isinstance(part, (Mapping, Config)):
        return set()
    builder: Any = part.get('type') if where else None
    builder = builder or _BUILDERS.get(where)
    if builder is Runner:
        builder = Runner.__mro__[1].__init__
    if builder is None or isinstance(builder, str):
        return None
    parameters = inspect.signature(builder).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters} - {'self', 'runner'}
