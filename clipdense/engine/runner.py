"""MMEngine's runner with safe reading, atomic writing and exact resuming of checkpoints."""

from __future__ import annotations

import difflib
import itertools
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import BaseLoop
from mmengine.runner import Runner as MMEngineRunner
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from clipdense.clip import self_describing as portable
from clipdense.layers.batch_norm import synchronize
from clipdense.registry import MODELS, RUNNERS, entries, noted
from clipdense.utils.dist import all_gather_object, is_main, rank
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.utils.files import atomic_write, locked, writable_folder
from clipdense.weights.io import read_weights
from clipdense.weights.strict import load_strict

from .checkpoint_hook import CheckpointHook
from .checkpointing import (
    hub_state,
    missing_part,
    newest_checkpoint,
    read_checkpoint,
    set_hub_state,
    what_remains,
    write_checkpoint,
)
from .compiling import compile_blocks, read_compile
from .ema import EMAHook, read_ema
from .health import weights_fault
from .hooks import ProgressHook
from .loggers import build_loggers, read_log
from .logs import config_text, environment, make_plain, set_screen_level
from .loops import TrainLoop, build_loader
from .model_weights import clip_weights, is_clip_alone, model_meta
from .optimizer import DecayGroupsConstructor, PrecisionOptimWrapper
from .parallel import DistributedModel, read_parallel, unwrapped
from .resume import Position, random_state
from .sharded_run import read_parts
from .sharding import whole

_RUNS = itertools.count()  # of this process; for unique names of log folders and global instances
_SHOWN_CHANGES = 20  # maximum number of logged lines
_OF_A_START = ('load_from = ', 'resume = ', 'work_dir = ', 'randomness = ')  # not of the run


@RUNNERS.register_module()
class Runner(MMEngineRunner):
    """Builds everything from a config and trains or tests it, with the arguments of MMEngine's runner.

    Differences: ``train_cfg`` without ``type`` is a ``TrainLoop``; ``optim_wrapper`` is a
    ``PrecisionOptimWrapper`` with weight-decay groups by default; loaders default to
    ``ResumableSampler`` and to stacking batches; checkpoints are those of ``checkpointing``; weights must
    fit; several processes train through ``DistributedModel``, and ``sync_bn=True`` lets batch norm see the
    images of all of them, on the CPU as well; the screen shows progress, the log file all.

    ``resume=True`` continues from the newest valid checkpoint of the work directory, if any, and with
    ``load_from`` from that file.  ``load_from`` alone reads the weights of any file ``weights.io`` knows.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get('work_dir'):
            writable_folder(kwargs['work_dir'])
        super().__init__(*args, **kwargs)
        set_screen_level(self.logger, self._screen_level)

    @classmethod
    def from_cfg(cls, cfg: Any) -> Runner:
        """Build a runner from a config, which needs ``model`` and ``work_dir`` only."""
        cfg = cfg.copy() if isinstance(cfg, Config) else Config(cfg)
        cfg.setdefault('default_scope', None)  # configs name classes, not strings
        if isinstance(cfg.get('param_scheduler'), Mapping):  # MMEngine refuses the None of a removed one
            cfg.param_scheduler = {k: v for k, v in cfg.param_scheduler.items() if v is not None}
        object.__setattr__(cfg, '_format_python_code', False)  # see logs.config_text
        return super().from_cfg(cfg)

    # Quiet, and apart from other runs of the process

    def setup_env(self, env_cfg: dict) -> None:
        """As in MMEngine; a second run within one second gets a unique name."""
        if self.distributed and not dist.is_initialized() and not torch.cuda.is_available():
            dist.init_process_group('gloo')  # MMEngine asks for a GPU
        super().setup_env(env_cfg)
        run = next(_RUNS)
        self._timestamp += f'_{run}' if run else ''

    def set_randomness(
        self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        """Seed everything; processes share ``runner.seed`` and the weights, but not their dropout masks."""
        super().set_randomness(seed, False, deterministic)
        if rank():
            own = self.seed + rank()
            random.seed(own)
            np.random.seed(own)  # noqa: NPY002
            torch.manual_seed(own)

    def build_logger(
        self, log_level: int | str = 'INFO', log_file: str | None = None, **kwargs: Any
    ) -> MMLogger:
        """See ``logs``."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        self._screen_level = logger.handlers[0].level
        make_plain(logger)
        return logger

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        """The visualizer; without a config, one that writes to the loggers of ``log``, if any."""
        if visualizer is None:
            names = read_log(self.cfg.get('log')) if self.cfg.get('train_cfg') else []
            return build_loggers(names, self.work_dir, self.logger, self._experiment_name)
        return super().build_visualizer(visualizer)

    def dump_config(self) -> None:
        """Write the config to one file in the work directory."""
        if is_main() and self.cfg:
            name = Path(self.cfg.filename or 'config').stem
            with atomic_write(Path(self.work_dir) / f'{name}.py', 'w') as file:
                file.write(self._config)

    def _log_env(self, env_cfg: dict) -> None:
        self._config = config_text(self.cfg)
        self.logger.info(f'{environment()}; seed {self.seed}, {self.world_size} processes')
        self.logger.info(f'config:\n{self._config}')

    # Building

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Move the model to its device, and wrap it for several processes and ``sync_bn``."""
        if is_model_wrapper(model) or model_wrapper_cfg is not None:
            return super().wrap_model(model_wrapper_cfg, model)
        settings = read_parallel(self.cfg.get('parallel'))
        sharded = settings.type == 'fsdp' and self.distributed
        if settings.type == 'fsdp' and not sharded:
            self.logger.warning("parallel.type='fsdp': there is one process, so nothing is sharded")
        if sharded:
            getattr(model, 'init_weights', lambda: None)()
        model = model if sharded else model.to(get_device())  # blocks are moved one by one
        if self.distributed:
            synchronize(model, every=bool(self.cfg.get('sync_bn')))
        if self.distributed or settings.activation_checkpointing:
            model = DistributedModel(model, settings)
        return model

    def _init_model_weights(self) -> None:
        """As in MMEngine; weights of a sharded model were initialized before."""
        if not getattr(self.model, 'sharded', False):
            super()._init_model_weights()

    def _maybe_compile(self, target: str) -> None:
        """Compile the blocks of the model, if the config has ``compile``; MMEngine compiles a whole step."""
        options = read_compile(self.cfg.get('compile'))
        if options is not None:
            compile_blocks(unwrapped(self.model), options, self.logger)

    def whole_model(self) -> Any:
        """The model; of a sharded one, a copy with the whole weights in the main process, else the model."""
        model = unwrapped(self.model)
        if not getattr(self.model, 'sharded', False):
            return model
        state = whole(model.state_dict(), keep=is_main())
        if not is_main():
            return model
        copy = MODELS.build(self.cfg.model)
        copy.load_state_dict(state)
        return copy

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """See ``loops.build_loader``."""
        if isinstance(dataloader, DataLoader):
            return dataloader
        return build_loader(dataloader, seed or 0)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """MMEngine's timer and scheduler hooks, and our progress and checkpoints; None removes one."""
        defaults: dict[str, Any] = {
            'runtime_info': {'type': 'RuntimeInfoHook'},
            'timer': {'type': 'IterTimerHook'},
            'logger': {'type': ProgressHook},
            'param_scheduler': {'type': 'ParamSchedulerHook'},
            'checkpoint': {'type': CheckpointHook},
        }
        for hook in {**defaults, **(hooks or {})}.values():
            if hook is not None:
                with noted(hook):
                    self.register_hook(hook)
        ema = read_ema(self.cfg.get('ema'))
        if ema is not None:
            self.register_hook(EMAHook(**ema))

    def register_custom_hooks(self, hooks: Mapping[str, Any] | Sequence[Any]) -> None:
        """Hooks by name, where None removes one, or a list of them as in MMEngine.

        Raises:
            InputError: a single hook without a name.
        """
        for hook in entries(hooks, 'custom_hooks'):
            with noted(hook):
                self.register_hook(hook)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """``TrainLoop`` by default."""
        if isinstance(loop, dict) and 'type' not in loop:
            loop = {'type': TrainLoop, **loop}
        return super().build_train_loop(loop)

    def build_optim_wrapper(self, optim_wrapper: Any) -> OptimWrapper:
        """``PrecisionOptimWrapper`` with weight-decay groups by default."""
        if isinstance(optim_wrapper, dict) and isinstance(optim_wrapper.get('optimizer'), dict):
            defaults = {'type': PrecisionOptimWrapper, 'constructor': DecayGroupsConstructor}
            optim_wrapper = {**defaults, **optim_wrapper}
        with noted(optim_wrapper):
            built = super().build_optim_wrapper(optim_wrapper)
        self._check_optimizer(built)
        return built

    def _check_optimizer(self, wrapper: Any) -> None:
        """Refuse a run without trainable parameters; warn of a learning rate of 0."""
        groups = getattr(wrapper, 'param_groups', [])
        if groups and not any(p.requires_grad for group in groups for p in group['params']):
            raise InputError('all parameters are frozen; at least one must be trainable')
        if groups and all(group['lr'] == 0 for group in groups):
            self.logger.warning('the learning rate is 0: training will not change the weights')

    def _build_param_scheduler(self, scheduler: Any, optim_wrapper: OptimWrapper) -> list[_ParamScheduler]:
        """As in MMEngine, for data without a length as well; schedules per step get the length of the run.

        Several schedules may have names, as hooks have.
        """
        named = isinstance(scheduler, Mapping) and 'type' not in scheduler
        several = named or isinstance(scheduler, (list, tuple))
        schedulers = entries(scheduler, 'param_scheduler') if several else [scheduler]
        built = []
        for item in schedulers:
            with noted(item):
                if isinstance(item, dict) and getattr(item['type'], 'per_step', False):
                    given = {name: value for name, value in item.items() if name != 'type'}
                    built.append(item['type'](optim_wrapper, **{'steps': self.max_iters, **given}))
                else:
                    built += super()._build_param_scheduler(item, optim_wrapper)
        return built

    def train(self) -> nn.Module:
        """Train, alone in the work directory.

        Raises:
            InputError: another run uses it.
        """
        with locked(Path(self.work_dir)) if is_main() else nullcontext():
            return super().train()

    # Checkpoints

    def load_or_resume(self) -> None:
        """Resume or load weights, once, as set in the config."""
        if self._has_loaded or not (self._resume or self._load_from):
            return
        if not self._resume:
            self.load_checkpoint(self._load_from)
            return
        path = self._load_from or newest_checkpoint(self.work_dir)
        if path is None:
            self.logger.warning(f'{self.work_dir} contains no checkpoint; starting from the beginning')
            return
        self.resume(str(path))

    def load_checkpoint(
        self, filename: str, map_location: Any = 'cpu', strict: bool = True, revise_keys: list | None = None
    ) -> dict[str, Any]:
        """Load weights from any file that ``weights.io`` reads; for a CLIP from any CLIP file.

        Args:
            filename: a path; for a CLIP under training also a name such as 'ViT-B-16/openai'.
            map_location, revise_keys: ignored; weights are copied to the model's device.
            strict: whether names and shapes must match.

        Raises:
            CheckpointError: the file is damaged, or does not fit.
        """
        model = unwrapped(self.model)
        if is_clip_alone(model):
            checkpoint = {'meta': {}, 'state_dict': clip_weights(model, filename)}
        else:
            file = read_weights(filename)
            own = getattr(model, 'own_tensors', None)  # models whose exported file has other names
            tensors = portable.own_tensors(model, file.tensors) if own is None else own(file)
            checkpoint = {'meta': {}, **file.extra, 'state_dict': tensors}
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        if strict:
            load_strict(model, checkpoint['state_dict'], filename)
        else:
            left = model.load_state_dict(checkpoint['state_dict'], strict=False)
            self.logger.warning(
                f'{filename}: missing keys {left.missing_keys}, unexpected keys {left.unexpected_keys}'
            )
        self._has_loaded = True
        self.logger.info(f'weights from {filename}')
        return checkpoint

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = 'cpu',
    ) -> None:
        """Continue the run of a training checkpoint, exactly if config and machine are the same.

        Raises:
            CheckpointError: the file is damaged, or belongs to another model or optimizer.
            InputError: the data is laid out differently.
        """
        checkpoint = read_checkpoint(filename)
        folder = Path(filename) if Path(filename).is_dir() else None
        if 'optimizer' not in checkpoint:
            raise CheckpointError(
                f'{filename} contains weights only; use load_from, or resume from a step_*.pth'
            )
        fault = missing_part(checkpoint) or weights_fault(checkpoint)
        if fault:
            raise CheckpointError(f'{filename} cannot be resumed: {fault}')
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = unwrapped(self.model)
        if folder is None:
            load_strict(model, portable.own_tensors(model, checkpoint['state_dict']), filename)
        else:
            read_parts(self, folder, checkpoint)
        if resume_optimizer:
            self.optim_wrapper.load_state_dict(checkpoint['optimizer'])
        if resume_param_scheduler:
            for scheduler, state in zip(self._schedulers(), checkpoint['param_schedulers'], strict=False):
                scheduler.load_state_dict(state)
        states = checkpoint['random']
        if len(states) != self.world_size:
            self.logger.warning(
                f'saved by {len(states)} processes, resumed by {self.world_size}: random states not restored'
            )
        state = states[rank()] if len(states) == self.world_size else None
        self._adopt_seed(checkpoint['meta']['seed'])
        self.train_loop.resume_at(Position(**checkpoint['position']), state)
        set_hub_state(self.message_hub, checkpoint['message_hub'])
        self.call_hook('after_resume', checkpoint=checkpoint)
        self._has_loaded = True
        self._report_changes(checkpoint['meta'])
        self.logger.info(f'resumed after step {self.iter} (epoch {self.epoch}) from {filename}')

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Write the state of the run; called in all processes, written by one.

        Args:
            out_dir, filename: of the file.
            save_optimizer, save_param_scheduler: without the optimizer it cannot be resumed.
            meta: more plain data for the checkpoint's meta.
            file_client_args, by_epoch, backend_args: ignored; for compatibility with MMEngine's hook.

        Raises:
            InputError: weights that are not finite or implausible, in all processes.
            WriteError: no disk space, or no permission; earlier files are unchanged.
        """
        self.refuse_unusable(filename, save_optimizer)
        states = all_gather_object(random_state())
        sharded = getattr(self.model, 'sharded', False)
        if not is_main() and not sharded:
            return
        checkpoint = self.training_state(states)
        checkpoint['meta'] |= meta or {}
        left_out = {'optimizer': save_optimizer, 'param_schedulers': save_param_scheduler}
        for name in (name for name, wanted in left_out.items() if not wanted):
            del checkpoint[name]
        self.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        if sharded:
            checkpoint = whole(checkpoint, keep=is_main())
        if is_main():
            write_checkpoint(Path(out_dir) / filename, checkpoint)

    def training_state(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """What a checkpoint contains, with the random states of all processes."""
        return self._weights({}) | {
            'position': self.train_loop.position.to_dict(),
            'random': states,
            'message_hub': hub_state(self.message_hub),
            'optimizer': self.optim_wrapper.state_dict(),
            'param_schedulers': [scheduler.state_dict() for scheduler in self._schedulers()],
        }

    def write_weights(self, path: Path, meta: dict[str, Any]) -> None:
        """Write the model alone, without what resuming needs; only the main process does."""
        self.refuse_unusable(path.name, optimizer=False)
        weights = whole(self._weights(meta), keep=is_main())
        if is_main():
            write_checkpoint(path, weights)

    def refuse_unusable(self, name: str, optimizer: bool = True) -> None:
        """Refuse to save weights that nobody should resume from, which would replace good ones."""
        states = {'optimizer': self.optim_wrapper.state_dict()} if optimizer else {}
        fault = weights_fault({'state_dict': unwrapped(self.model).state_dict(), **states})
        if getattr(self.model, 'sharded', False):
            fault = next((one for one in all_gather_object(fault) if one), None)
        if fault:
            raise InputError(
                f'{name} is not saved: {fault}; lower the learning rate, use a longer warm-up, or set '
                f'clip_grad; {what_remains(self.work_dir)}'
            )

    def _weights(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Weights and their metadata."""
        model = unwrapped(self.model)
        known = {
            'config': self._config,
            'seed': self.seed,
            'step': self.train_loop.position.step if isinstance(self._train_loop, BaseLoop) else 0,
            'time': time.strftime('%Y-%m-%d %H:%M:%S'),
            'versions': {'torch': torch.__version__, 'mmengine': mmengine.__version__},
        }
        known |= model_meta(model) | portable.meta(model, self.cfg)
        state = portable.weights(model) if 'portable' in known else model.state_dict()
        return {'state_dict': state, 'meta': known | meta}

    def _schedulers(self) -> Iterable[_ParamScheduler]:
        return self.param_schedulers or []

    def _adopt_seed(self, seed: int) -> None:
        """Keep the seed of the resumed run, which determines the order of the data."""
        asked = self._randomness_cfg.get('seed')
        if asked is not None and asked != seed:
            self.logger.warning(f'the resumed run keeps its seed {seed}; seed {asked} is ignored')
        loader = self.train_loop.dataloader
        for part in (getattr(loader.batch_sampler, 'sampler', loader.sampler), loader.dataset):
            if getattr(part, 'seed', None) == self.seed:
                part.seed = seed
        self._seed = seed

    def _report_changes(self, meta: dict[str, Any]) -> None:
        old, new = meta['config'].splitlines(), self._config.splitlines()
        changes = [
            line
            for line in difflib.ndiff(old, new)
            if line[0] in '+-' and not line[2:].startswith(_OF_A_START)
        ]
        if changes:
            shown = '\n  '.join(changes[:_SHOWN_CHANGES])
            self.logger.warning(f'the config differs from that of the resumed run:\n  {shown}')
