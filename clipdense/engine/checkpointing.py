"""Training checkpoints: plain data, written atomically and verified when read.

A checkpoint is a dict of dicts, lists, tuples, numbers, strings and tensors only, so that
``torch.load(weights_only=True)`` can read it without classes of clipdense or MMEngine::

    format           'clipdense-training-1'
    state_dict       the model
    optimizer        state of the optimizer wrapper (absent in best.pth, like the four below)
    param_schedulers list of states
    position         step, epoch, batches, batch_size, processes, num_workers, dataset_size, mixture
    random           generator states, one entry per process
    message_hub      recent values of the logged scalars, best value so far
    meta             config text, seed, versions, time, vocabulary, and the model's own metadata
"""

from __future__ import annotations

import contextlib
import math
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from torch import Tensor

from clipdense.registry import HOOKS
from clipdense.utils.dist import is_main
from clipdense.utils.errors import CheckpointError, InputError, WriteError, nearest
from clipdense.utils.files import atomic_write

from . import sharded_checkpoint
from .health import weights_fault
from .hooks import in_training
from .resume import Position

FORMAT = 'clipdense-training-1'
_POINTER = 'last_checkpoint'  # MMEngine's name for it
_BEST = 'best.pth'
_REMEMBERED = 1000  # stored values of each logged scalar


def plain(value: Any, where: str = 'checkpoint') -> Any:
    """Copy nested containers, with NumPy values converted to numbers and tensors, all on the CPU.

    Raises:
        TypeError: anything that is not plain data; the message gives its position.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)  # torch.__version__ is a subclass of str
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Mapping):
        return {plain(k, where): plain(v, f'{where}[{k!r}]') for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(item, f'{where}[{index}]') for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    raise TypeError(f'{where} is a {type(value).__name__}; checkpoints can contain plain data only')


def write_checkpoint(path: str | Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint atomically: the previous file stays until the new one is complete and on disk.

    Raises:
        WriteError: no disk space, or no permission.
        TypeError: something in it is not plain data.
    """
    content = plain({'format': FORMAT, **checkpoint})
    with atomic_write(path, needed=_bytes(content)) as file:
        torch.save(content, file)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read and verify a file of ``write_checkpoint``; runs no code of the file.

    Raises:
        CheckpointError: a missing, damaged or other file.
    """
    path = Path(path)
    problem = damage(path)
    if problem:
        raise CheckpointError(f'{path} {problem}')
    return _read(path)


def steps_in(folder: str | Path) -> list[Path]:
    """The checkpoints of steps in a work directory: files, and folders of sharded ones."""
    found = [path for path in Path(folder).glob('step_*') if path.suffix == '.pth' or path.is_dir()]
    return [path for path in found if _step_of(path) >= 0]


def _read(path: Path) -> dict[str, Any]:
    path = path / sharded_checkpoint.STATE if path.is_dir() else path
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f'{path} is not a checkpoint of clipdense: it contains objects other than plain data'
        ) from error
    except Exception as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise CheckpointError(f'cannot read {path} as a checkpoint: {reason[:200]}') from error
    if not isinstance(checkpoint, dict) or checkpoint.get('format') != FORMAT:
        raise CheckpointError(
            f'{path} is not a training checkpoint of clipdense; to start from its weights, use load_from'
        )
    return checkpoint


def damage(path: Path) -> str | None:
    """A description of the damage of a checkpoint file, or None; verifies all checksums."""
    if path.is_dir():
        return sharded_checkpoint.damage(path) or damage(path / sharded_checkpoint.STATE)
    if not path.is_file():
        return 'does not exist'
    size = path.stat().st_size
    if size == 0:
        return 'is empty'
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError):
        return f'is damaged or truncated ({size} bytes)'
    return f'is damaged: wrong checksum of {broken}' if broken else None


def missing_part(checkpoint: Mapping[str, Any]) -> str | None:
    """What a checkpoint lacks for resuming, or None."""
    parts: dict[str, type] = dict.fromkeys(
        ('state_dict', 'optimizer', 'position', 'message_hub', 'meta'), dict
    )
    parts |= {'param_schedulers': list, 'random': list}
    for name, kind in parts.items():
        if not isinstance(checkpoint.get(name), kind):
            return f'it has no {name}'
    known = {field.name: type(field.default) for field in fields(Position)}
    wrong = [key for key, value in checkpoint['position'].items() if type(value) is not known.get(key)]
    if wrong:
        return f'its position has the unknown entry {wrong[0]!r}'
    absent = [name for name in ('config', 'seed') if name not in checkpoint['meta']]
    return f'its meta has no {absent[0]}' if absent else None


def newest_checkpoint(folder: str | Path, strict: bool = False) -> Path | None:
    """The checkpoint to resume from: that of ``last_checkpoint``, else the newest valid one.

    Valid are undamaged files whose weights are finite and plausible.

    Args:
        folder: a work directory.
        strict: raise for a damaged or missing last one, instead of falling back with a warning.

    Raises:
        CheckpointError: the last one is damaged (``strict``), or all are.
    """
    folder = Path(folder)
    found = sorted(steps_in(folder), key=lambda path: (path.stat().st_mtime_ns, _step_of(path)))
    pointer = folder / _POINTER
    if pointer.is_file():
        named = folder / Path(pointer.read_text(encoding='utf-8', errors='replace').strip()).name
        found = [path for path in found if path != named] + [named]
    problems: list[str] = []
    for path in reversed(found):
        problem = damage(path) or _unusable(path)
        if problem is None:
            if problems:
                _warn(f'{problems[0]}; resuming from {path.name} instead')
            return path
        problems.append(f'{path} {problem}')
        if strict:
            break
    if problems:
        raise CheckpointError(
            f'{problems[0]}; resume from another checkpoint with -o resume=True -o load_from=PATH, '
            'or start a new run'
        )
    return None


def run_files(folder: str | Path) -> list[Path]:
    """The checkpoints of a run, oldest first, after what points to them."""
    folder = Path(folder)
    named = [folder / name for name in (_POINTER, _BEST) if (folder / name).is_file()]
    return [*named, *sorted(steps_in(folder), key=_step_of)]


def what_remains(folder: str | Path) -> str:
    """What ``--resume`` would do in a folder, for the message of a run that fails; the files are checked."""
    try:
        path = newest_checkpoint(folder)
    except CheckpointError as error:
        return f'no checkpoint can be resumed: {error}'
    if path is None:
        return 'there is no checkpoint yet'
    return f'--resume continues from {path.name}, whose weights are finite'


def _unusable(path: Path) -> str | None:
    """Why an undamaged file cannot be resumed, or None."""
    try:
        fault = weights_fault(_read(path))
    except CheckpointError as error:
        return f'cannot be resumed: {error}'
    return fault and f'cannot be resumed: {fault}'


def remove_orphans(folder: str | Path) -> list[Path]:
    """Delete temporary files of an interrupted writer; only one run at a time may use a work directory."""
    orphans = [
        path for name in ('step_*.pth', _BEST, _POINTER) for path in Path(folder).glob(f'.{name}.*.tmp')
    ]
    orphans += Path(folder).glob('.step_*.tmp')
    for path in orphans:
        remove(path)
    return orphans


def remove(path: Path) -> None:
    """Delete a checkpoint, if it exists."""
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def hub_state(hub: MessageHub) -> dict[str, Any]:
    """Recent history of each logged scalar, as plain tensors."""
    state = {}
    for name, buffer in hub.log_scalars.items():
        values, counts = (np.asarray(column, np.float64)[-_REMEMBERED:] for column in buffer.data)
        state[name] = {'values': values, 'counts': counts}
    return state


def set_hub_state(hub: MessageHub, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Restore the state of ``hub_state``."""
    for name, history in state.items():
        hub.log_scalars[name] = HistoryBuffer(history['values'].numpy(), history['counts'].numpy())


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Saves the run at an interval, at its end and when it is stopped; and the best weights.

    Args:
        interval: steps between checkpoints; None saves at the end only.
        max_keep: number of step checkpoints to keep; -1 keeps all.
        save_best: the metric, such as 'zero_shot/top1', whose best weights go to ``best.pth`` (weights only).
        best_is: whether higher or lower values are better.
        on_error: 'raise' stops training when a checkpoint cannot be written; 'warn' continues.
        sharded: write folders ``step_N`` to which each process adds its part, in place of files
            ``step_N.pth``; training resumes from either, with any number of processes.
        asynchronous: write sharded ones while training continues.

    Raises:
        InputError: invalid settings; weights that are not finite or implausible, which are never saved.
    """

    priority = 'VERY_LOW'

    def __init__(
        self,
        interval: int | None = 1000,
        max_keep: int = 2,
        save_best: str | None = None,
        best_is: Literal['max', 'min'] = 'max',
        on_error: Literal['raise', 'warn'] = 'raise',
        sharded: bool = False,
        asynchronous: bool = False,
    ) -> None:
        if asynchronous and not sharded:
            raise InputError('CheckpointHook: asynchronous=True needs sharded=True')
        if (interval is not None and interval < 1) or max_keep == 0 or max_keep < -1:
            raise InputError('CheckpointHook needs interval >= 1 (or None) and max_keep >= 1 (or -1 for all)')
        self.interval, self.max_keep = interval, max_keep
        self.save_best, self.sign = save_best, {'max': 1.0, 'min': -1.0}[best_is]
        self.on_error = on_error
        self.best: float | None = None
        self._saved: list[Path] = []
        self._saved_step = -1
        self.sharded, self.asynchronous = sharded, asynchronous
        self._writer: Any = None
        self._unknown: set[str] = set()  # metrics of evaluations without ``save_best``

    def before_train(self, runner: Any) -> None:
        """Remove files of an interrupted writer, and list checkpoints of earlier runs."""
        folder = Path(runner.work_dir)
        self._writer = sharded_checkpoint.Writer(self.asynchronous) if self.sharded else None
        if is_main():
            for path in remove_orphans(folder):
                runner.logger.info(f'removed {path.name}, an incomplete file of an interrupted run')
        if runner.train_loop.position.step:
            self._saved = sorted(steps_in(folder), key=_step_of)
            self._saved_step = runner.train_loop.position.step
        elif steps_in(folder):  # of a runner that is not made by ``launch.train``
            runner.logger.warning(
                f'{folder} contains checkpoints of an earlier run; use --resume to continue it'
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save at the interval and after the last step."""
        if self._writer is not None and self._writer.busy:
            self._complete(runner)
        due = self.interval is not None and self.every_n_train_iters(runner, self.interval)
        if due or self.is_last_train_iter(runner):
            self._save(runner)

    def after_train(self, runner: Any) -> None:
        """Save after an early end; say so where there is no best."""
        self._save(runner)
        self._complete(runner, wait=True)
        if self.save_best and self.best is None:
            known = ', '.join(sorted(self._unknown)) or 'there was none'
            runner.logger.warning(
                f'{_BEST} was not written: no evaluation gave a finite {self.save_best} (metrics: {known})'
                f'{nearest(self.save_best, self._unknown)}'
            )

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Keep the weights if they are the best so far."""
        self.after_evaluation(runner, metrics or {})

    def after_evaluation(self, runner: Any, metrics: dict[str, float]) -> None:
        """Keep the weights if they are the best so far; non-finite values are ignored."""
        value = metrics.get(self.save_best) if self.save_best and in_training(runner) else None
        if value is None or not math.isfinite(value):
            self._unknown |= metrics.keys()
            return
        if self.best is None or self.sign * value > self.sign * self.best:
            self.best = float(value)
            with self._failures(runner):
                runner.write_weights(
                    Path(runner.work_dir) / _BEST, {'metric': self.save_best, 'value': self.best}
                )

    def on_interrupt(self, runner: Any) -> None:
        """Save when a signal stops the run."""
        self._save(runner)
        self._complete(runner, wait=True)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Store the best value in the checkpoint."""
        checkpoint['meta']['best'] = self.best

    def after_resume(self, runner: Any, checkpoint: dict) -> None:
        """Restore the best value."""
        self.best = checkpoint['meta'].get('best')

    def _save(self, runner: Any) -> None:
        """Write the checkpoint of this step, update ``last_checkpoint``, and remove the oldest."""
        step = runner.train_loop.position.step
        if step == self._saved_step:
            return
        path = Path(runner.work_dir) / (f'step_{step}' if self.sharded else f'step_{step}.pth')
        gone = [other.name for other in self._saved if not other.exists()]
        if gone and is_main():
            runner.logger.warning(f'earlier checkpoints were removed by another program: {", ".join(gone)}')
            self._saved = [other for other in self._saved if other.exists()]
        self._complete(runner, wait=True)
        with self._failures(runner):
            if self.sharded:
                from .sharded_run import save_parts  # which needs this module

                save_parts(runner, self._writer, path)
            else:
                runner.save_checkpoint(runner.work_dir, path.name)
            self._saved_step = step
            if self._writer is None or not self._writer.busy:
                self._written(path)

    def _complete(self, runner: Any, wait: bool = False) -> None:
        """Record a sharded checkpoint that has been written meanwhile."""
        if self._writer is None:
            return
        with self._failures(runner):
            path = self._writer.finished(wait)
            if path is not None:
                self._written(path)

    def _written(self, path: Path) -> None:
        if is_main():
            with atomic_write(path.with_name(_POINTER), 'w') as file:
                file.write(path.name)
            self._saved = [other for other in self._saved if other != path] + [path]
            while 0 < self.max_keep < len(self._saved):
                remove(self._saved.pop(0))

    @contextlib.contextmanager
    def _failures(self, runner: Any) -> Iterator[None]:
        try:
            yield
        except WriteError as error:
            if self.on_error == 'raise':
                raise
            runner.logger.warning(f'checkpoint not saved, training continues: {error}')


def _bytes(value: Any) -> int:
    """Bytes of the tensors in nested containers."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0


def _step_of(path: Path) -> int:
    number = re.fullmatch(r'step_(\d+)', path.stem)
    return int(number[1]) if number else -1


def _warn(message: str) -> None:
    from mmengine.logging import print_log

    print_log(message, logger='current', level=30)
