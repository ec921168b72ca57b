"""When a run saves checkpoints, and which ones it keeps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mmengine.hooks import Hook

from clipdense.registry import HOOKS
from clipdense.utils.dist import is_main
from clipdense.utils.errors import InputError, WriteError, nearest
from clipdense.utils.files import atomic_write

from .checkpointing import BEST, POINTER, remove, remove_orphans, step_of, steps_in
from .hooks import in_training
from .sharded_checkpoint import Writer
from .sharded_run import save_parts


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
        self._writer = Writer(self.asynchronous) if self.sharded else None
        if is_main():
            for path in remove_orphans(folder):
                runner.logger.info(f'removed {path.name}, an incomplete file of an interrupted run')
        if runner.train_loop.position.step:
            self._saved = sorted(steps_in(folder), key=step_of)
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
                f'{BEST} was not written: no evaluation gave a finite {self.save_best} (metrics: {known})'
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
                    Path(runner.work_dir) / BEST, {'metric': self.save_best, 'value': self.best}
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
            with atomic_write(path.with_name(POINTER), 'w') as file:
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
