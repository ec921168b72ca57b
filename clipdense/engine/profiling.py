"""A trace of some steps of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook

from clipdense.registry import HOOKS
from clipdense.utils.dist import is_main
from clipdense.utils.errors import InputError
from clipdense.utils.files import explain_write_error, writable_folder

PROFILE_FOLDER = 'profile'
_SHOWN = 10  # operations in the log


@HOOKS.register_module()
class ProfileHook(Hook):
    """Writes a trace of some steps by ``torch.profiler``, for Perfetto or chrome://tracing.

    Each process writes ``profile/steps_FIRST_to_LAST_rank_R.json.gz`` in the work directory; the log has the
    slowest operations.  Training is slower while steps are recorded, and otherwise unchanged.

    Args:
        skip: steps before the first one that is recorded; the first steps allocate memory and compile.
        steps: that are recorded.

    Raises:
        InputError: numbers of steps that make no sense.
    """

    priority = 'VERY_LOW'

    def __init__(self, skip: int = 2, steps: int = 3) -> None:
        if skip < 0 or steps < 1:
            raise InputError(f'ProfileHook needs skip >= 0 and steps >= 1, got {skip} and {steps}')
        self.skip, self.steps = skip, steps
        self._profiler: torch.profiler.profile | None = None
        self._done = 0

    def before_train(self, runner: Any) -> None:
        """Check the folder before the time is spent.

        Raises:
            InputError: it cannot be written to.
        """
        writable_folder(Path(runner.work_dir) / PROFILE_FOLDER)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Start recording."""
        if self._done == self.skip:
            kinds = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                kinds.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=kinds, record_shapes=True, profile_memory=True)
            self._profiler.__enter__()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Write the trace after the last recorded step."""
        self._done += 1
        if self._done == self.skip + self.steps:
            self._write(runner, runner.iter + 1)

    def after_train(self, runner: Any) -> None:
        """Write the trace of a short run."""
        if self._done <= self.skip:
            runner.logger.warning(
                f'no profile: the run has {self._done} steps, and the first {self.skip} are not recorded'
            )
        self._write(runner, runner.iter)

    def _write(self, runner: Any, last: int) -> None:
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.__exit__(None, None, None)
        count = min(self._done - self.skip, self.steps)
        name = f'steps_{last - count + 1}_to_{last}_rank_{runner.rank}.json.gz'
        path = Path(runner.work_dir) / PROFILE_FOLDER / name
        try:
            profiler.export_chrome_trace(str(path))
        except OSError as error:  # training is worth more than its trace
            runner.logger.warning(f'no profile, training continues: {explain_write_error(error, path)}')
            return
        if is_main():
            table = profiler.key_averages().table(sort_by='self_cpu_time_total', row_limit=_SHOWN)
            runner.logger.info(f'trace of {count} steps: {path}; open it in https://ui.perfetto.dev\n{table}')
