"""``train(config)`` and ``test(config, checkpoint)``, used by tools/ and the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from mmengine.config import Config
from mmengine.runner import Runner as RunnerBase
from torch.utils.data import DataLoader

from clipdense.config import check_parts, config_name, load_config, named_parts, part_class
from clipdense.utils.arguments import argument_names
from clipdense.utils.dist import is_main
from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write

from .checkpointing import newest_checkpoint
from .checks import check_sections, check_start, check_values, warn_of_data_root
from .compiling import read_compile
from .ema import EMAHook, read_ema
from .hooks import EvaluationHook
from .loggers import AUTO, read_log
from .loops import TrainLoop
from .optimizer import PrecisionOptimWrapper
from .parallel import Parallel, read_parallel
from .peers import one_fate
from .profiling import ProfileHook
from .runner import Runner
from .work_dir import free_folder, no_remains

_SETTINGS = {  # allowed names by part of a config; other parts have a type, which defines them
    '': argument_names(RunnerBase.__init__),
    'train_dataloader': argument_names(DataLoader),
    'val_dataloader': argument_names(DataLoader),
    'test_dataloader': argument_names(DataLoader),
    'train_cfg': argument_names(TrainLoop),
    'optim_wrapper': {*(argument_names(PrecisionOptimWrapper) or ()), 'constructor', 'paramwise_cfg'},
    'randomness': argument_names(Runner.set_randomness),
    'parallel': argument_names(Parallel),
    'ema': argument_names(EMAHook),
}
_UNCHECKED = (
    'env_cfg',
    'custom_imports',
    'log_processor',
    'model_wrapper_cfg',
    'sync_bn',
    'randomness',
    'parallel',
    'ema',
    'compile',
    'log',
    'load_from',
    'resume',
)


def train(
    config: str | Path | Config,
    work_dir: str | Path | None = None,
    resume: bool | str | Path = False,
    seed: int | None = None,
    options: Sequence[str] | Mapping[str, Any] = (),
    strict_resume: bool = False,
    overwrite: bool = False,
    log: str | Sequence[str] | None = None,
    profile: bool = False,
) -> Runner:
    """Train with a config, in one process or in the processes of torchrun.

    Args:
        config: a file, a name in ``configs/`` (``contrastive/clip_scenes``), or a config.
        work_dir: for logs and checkpoints; ``work_dirs/<name of the config>`` by default.
        resume: True continues from the newest valid checkpoint in ``work_dir``, if any; or a path.
        seed: of weights, order and augmentation.
        options: ``['key.of.entry=value', ...]`` or a dict, replacing entries of the config.
        strict_resume: raise an error if the newest checkpoint is damaged, instead of using an older one.
        overwrite: remove the checkpoints and metrics of an earlier run in ``work_dir``, which is refused
            otherwise.
        log: where losses and scores go besides ``metrics.jsonl``: 'tensorboard', 'wandb', 'mlflow', several
            of them, or 'none'.  By default the ``log`` or ``visualizer`` of the config, or TensorBoard if it
            is installed.
        profile: write a trace of some steps, see ``ProfileHook``.

    Returns:
        The runner after training.

    Raises:
        InputError: invalid input, in one line.
    """
    cfg = _prepared(config, work_dir, options)
    resume = resume or int(os.environ.get('TORCHELASTIC_RESTART_COUNT') or 0) > 0  # torchrun starts it again
    missing = [key for key in ('train_dataloader', 'train_cfg', 'optim_wrapper') if cfg.get(key) is None]
    if missing:
        raise InputError(f'{config_name(cfg)} is not a training config: {", ".join(missing)} is missing')
    if seed is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': seed}
    _set_log(cfg, log)
    if profile:
        _add_profile(cfg)
    check_config(cfg)
    found = newest_checkpoint(cfg.work_dir, strict_resume) if resume is True else resume
    if found:
        if not Path(found).exists():
            raise InputError(
                f'the checkpoint {found} does not exist; give a step_*.pth, or resume=True for the newest one'
            )
        cfg.load_from, cfg.resume = str(found), True
    elif not resume and not cfg.get('resume'):
        free_folder(cfg.work_dir, overwrite)
    with no_remains(cfg.work_dir):
        with one_fate(cfg.work_dir), named_parts(cfg):
            runner = Runner.from_cfg(cfg)
        if resume and not found:
            runner.logger.warning(
                f'no checkpoint to resume from in {cfg.work_dir}; starting from the beginning'
            )
        try:
            with one_fate(cfg.work_dir), named_parts(cfg):
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
    """Evaluate weights with a config: its test loop, and the evaluations of its ``EvaluationHook``.

    Args:
        config, work_dir, options: as in ``train``.
        checkpoint: any weights file that ``weights.io`` reads and that fits the model; for a training-free
            model, whose class names a ``weights_argument``, what that argument takes.

    Returns:
        Metrics by name, also written to ``test_metrics.json`` in the work directory.

    Raises:
        InputError: invalid input, in one line.
    """
    cfg = _prepared(config, work_dir, options)
    for part in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg[part] = None
    check_config(cfg)
    argument = getattr(part_class(cfg.model), 'weights_argument', None)
    cfg.load_from, cfg.resume = None if argument else str(checkpoint), False
    if argument:  # a training-free model is built around weights
        cfg.model[argument] = str(checkpoint)
    with no_remains(cfg.work_dir), named_parts(cfg):
        runner = Runner.from_cfg(cfg)
    hooks = [hook for hook in runner.hooks if isinstance(hook, EvaluationHook)]
    if cfg.get('test_dataloader') is None and not hooks:
        raise InputError(f'{config_name(cfg)} has no evaluation; add test_dataloader or an EvaluationHook')
    runner.load_or_resume()
    with named_parts(cfg):
        metrics = dict(runner.test()) if cfg.get('test_dataloader') is not None else {}
    for hook in hooks:
        metrics |= hook.evaluate(runner.model)
    if is_main():
        with atomic_write(Path(runner.work_dir) / 'test_metrics.json', 'w') as file:
            json.dump({'checkpoint': str(checkpoint), **metrics}, file, indent=2, default=float)
    return metrics


def read_config(config: str | Path | Config, options: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """``load_config`` with a check that options are known to the config or the runner.

    Raises:
        InputError: as ``load_config``.
    """
    settings = {name: known for name, known in _SETTINGS.items() if known is not None}
    settings[''] = {*settings[''], *_UNCHECKED}
    return load_config(config, options, settings)


def check_config(cfg: Config) -> None:
    """Check the entries of a config, before models and data are built.

    Raises:
        InputError: the first mistake, with the dotted name of the entry.
    """
    check_values(cfg)
    check_sections(cfg, _SETTINGS)
    check_parts(cfg)
    check_start(cfg)
    read_parallel(cfg.get('parallel'))
    read_ema(cfg.get('ema'))
    read_compile(cfg.get('compile'))
    read_log(cfg.get('log'))


def _set_log(cfg: Config, log: str | Sequence[str] | None) -> None:
    if log:
        cfg.log, cfg.visualizer = [log] if isinstance(log, str) else list(log), None
    elif cfg.get('log') is not None and cfg.get('visualizer') is not None:
        raise InputError('the config has both log and visualizer; remove one of them')
    elif 'log' not in cfg and cfg.get('visualizer') is None:
        cfg.log = AUTO


def _add_profile(cfg: Config) -> None:
    hooks, own = cfg.get('custom_hooks') or {}, {'type': ProfileHook}
    cfg.custom_hooks = {**hooks, 'profile': own} if isinstance(hooks, Mapping) else [*hooks, own]


def _prepared(
    config: str | Path | Config, work_dir: Any, options: Sequence[str] | Mapping[str, Any]
) -> Config:
    written = load_config(config)
    cfg = read_config(written, options)
    if cfg.get('model') is None:
        raise InputError(f'{config_name(cfg)} has no entry model')
    warn_of_data_root(written, cfg)
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(cfg.filename or 'unnamed').stem)
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:  # set by torchrun
        cfg.setdefault('launcher', 'pytorch')
    return cfg
