"""Where losses and scores go besides ``metrics.jsonl``: TensorBoard, Weights & Biases, MLflow.

A run that is resumed continues in the same place.  Only the main process writes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from mmengine.visualization import Visualizer
from mmengine.visualization.vis_backend import BaseVisBackend

from clipdense.utils.dist import is_main
from clipdense.utils.errors import InputError, MissingPackage, nearest, one_line
from clipdense.utils.files import writable_folder

from .logs import config_text

AUTO, NONE = 'auto', 'none'
_PROJECT = 'clipdense'


class LogBackend(BaseVisBackend):
    """A service that takes numbers by step.  A failure while training is a warning, and ends its log only.

    Args:
        work_dir: of the run.
        required: whether a failure at the start is an error, else a warning.
    """

    package = ''

    def __init__(self, work_dir: str | Path, required: bool = True) -> None:
        self.folder = Path(work_dir) / self.package
        self.run = Path(work_dir).resolve().name
        self.required, self.failed, self.config = required, False, ''
        super().__init__(str(self.folder))

    @abstractmethod
    def start(self) -> None:
        """Called once, before training."""

    @abstractmethod
    def write(self, values: Mapping[str, float], step: int) -> None:
        """Write values of one step."""

    def stop(self) -> None:
        """Called at the end."""

    def add_config(self, config: Any, **_: Any) -> None:
        """Start, with the config.

        Raises:
            InputError: it cannot be started, and is required.
        """
        self.config = config_text(config)
        try:
            self.start()
        except Exception as error:  # any of the package's own
            what = f'{self.package} cannot be used: {one_line(error) or type(error).__name__}'
            if self.required:
                raise InputError(f'{what}; leave out --log {self.package}, or use --log none') from error
            self._end(what)

    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: Any = None, **_: Any) -> None:
        """Write values of one step, or warn once that this is impossible."""
        if self.failed:
            return
        try:
            self.write({name: float(value) for name, value in scalar_dict.items()}, step)
        except Exception as error:  # a full disk, no network: training is worth more than its log
            self._end(
                f'{self.package} log ends at step {step}, training continues: '
                f'{one_line(error) or type(error).__name__}'
            )

    def add_scalar(self, name: str, value: Any, step: int = 0, **_: Any) -> None:
        """Write one value."""
        self.add_scalars({name: value}, step)

    def close(self) -> None:
        """Write what is left."""
        if not self.failed and is_main():
            with contextlib.suppress(Exception):
                self.stop()

    @property
    def experiment(self) -> Any:
        """This object."""
        return self

    def _init_env(self) -> None: ...

    def _end(self, remark: str) -> None:
        self.failed = True
        MMLogger.get_current_instance().warning(remark)


class TensorBoard(LogBackend):
    """Event files in ``tensorboard/`` of the work directory.

    What an interrupted run wrote after the checkpoint that it is resumed from is hidden by TensorBoard.
    """

    package = 'tensorboard'

    def start(self) -> None:
        """Check the folder; it is made with the first line, when its step is known."""
        if self.folder.exists():
            writable_folder(self.folder)
        from torch.utils.tensorboard import SummaryWriter

        self._kind = SummaryWriter
        self._writer: Any = None

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Append to an event file, on the disk at once."""
        if self._writer is None:
            self._writer = self._kind(str(writable_folder(self.folder)), purge_step=step)
            self._writer.add_text('config', f'```python\n{self.config}```', step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def stop(self) -> None:
        """Close the file."""
        if getattr(self, '_writer', None) is not None:
            self._writer.close()


class WeightsAndBiases(LogBackend):
    """A run of the project 'clipdense', or of ``WANDB_PROJECT``; ``WANDB_MODE=offline`` needs no network."""

    package = 'wandb'

    def start(self) -> None:
        """Log in, and begin or continue the run of this folder."""
        import wandb

        record = writable_folder(self.folder) / 'run_id.txt'
        known = record.read_text().strip() if record.exists() else None
        self._run = wandb.init(
            project=None if wandb.Settings().project else _PROJECT,
            name=self.run,
            dir=str(self.folder.parent),
            id=known,
            resume='allow' if known else None,
            notes=None,
        )
        record.write_text(self._run.id)
        self._run.config.update({'config': self.config}, allow_val_change=True)

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Log one row."""
        self._run.log(dict(values), step=step)

    def stop(self) -> None:
        """End the run."""
        self._run.finish()


class MLflow(LogBackend):
    """A run of the experiment 'clipdense' or ``MLFLOW_EXPERIMENT_NAME``, at ``MLFLOW_TRACKING_URI``."""

    package = 'mlflow'

    def start(self) -> None:
        """Begin or continue the run of this folder."""
        import mlflow

        record = writable_folder(self.folder) / 'run_id.txt'
        if not os.environ.get('MLFLOW_EXPERIMENT_NAME'):
            mlflow.set_experiment(_PROJECT)
        known = record.read_text().strip() if record.exists() else None
        self._mlflow = mlflow
        self._run = mlflow.start_run(run_id=known, run_name=None if known else self.run)
        record.write_text(self._run.info.run_id)
        mlflow.log_text(self.config, 'config.py')

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Log one row."""
        self._mlflow.log_metrics(dict(values), step=step)

    def stop(self) -> None:
        """End the run."""
        self._mlflow.end_run()


LOGGERS: dict[str, type[LogBackend]] = {
    kind.package: kind for kind in (TensorBoard, WeightsAndBiases, MLflow)
}


def read_log(value: Any) -> list[str]:
    """The entry ``log`` of a config: names of ``LOGGERS``, 'auto' or 'none'; None is none.

    'auto' is TensorBoard if it is installed.

    Raises:
        InputError: an unknown name, or 'none' with others.
        MissingPackage: one that is not installed.
    """
    if not isinstance(value, str | list | tuple | None):
        raise InputError(f"log must be a name or a list of names, such as 'tensorboard', got {value!r}")
    names = list(dict.fromkeys([value] if isinstance(value, str) else map(str, value or ())))
    for name in names:
        if name not in (*LOGGERS, AUTO, NONE):
            known = ', '.join((*LOGGERS, NONE))
            raise InputError(f'log must be one of {known}; got {name!r}.{nearest(name, LOGGERS)}')
        if name in LOGGERS and not _installed(name):
            raise MissingPackage(f'--log {name} needs the package {name}: pip install "clipdense[{name}]"')
    if NONE in names and len(names) > 1:
        raise InputError(f'log={names} contradicts itself: none turns all logs off')
    return names


def build_loggers(names: list[str], work_dir: str | Path, logger: Any, name: str) -> Visualizer:
    """A visualizer of MMEngine that writes to these loggers.

    Args:
        names: of ``read_log``.
        work_dir: of the run.
        logger: gets a line where 'auto' finds no TensorBoard.
        name: of the visualizer.
    """
    if AUTO in names and not _installed('tensorboard'):
        logger.info('no TensorBoard log is written: pip install "clipdense[tensorboard]", or use --log none')
        names = [one for one in names if one != AUTO]
    kinds = {'tensorboard' if one == AUTO else one: one != AUTO for one in names if one != NONE}
    backends = [LOGGERS[kind](work_dir, required) for kind, required in kinds.items()]
    return Visualizer.get_instance(name, vis_backends=backends)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
