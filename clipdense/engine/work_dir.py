"""The work folder of a run: one run in each, and nothing of a run that did not start."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipdense.utils.dist import is_main
from clipdense.utils.errors import InputError

from .checkpointing import remove, run_files
from .hooks import METRICS_FILE
from .loggers import LOGGERS, TensorBoard
from .profiling import PROFILE_FOLDER

_RECORDS = (*LOGGERS, PROFILE_FOLDER)
_DATED = re.compile(r'\d{8}_\d{6}(_\d+)?')  # folders of the log of a run


def free_folder(work_dir: str | Path, overwrite: bool = False) -> None:
    """Check that a new run may use a folder.

    Args:
        work_dir: the folder; it need not exist.
        overwrite: remove checkpoints, metrics, logs and traces of an earlier run.

    Raises:
        InputError: it has checkpoints of an earlier run, which would be mixed with those of the new one.
    """
    folder = Path(work_dir)
    old = run_files(folder)
    if not old or not is_main():
        return
    if not overwrite:
        raise InputError(
            f'{folder} has checkpoints of an earlier run ({old[-1].name}): --resume continues it, --work-dir '
            'starts in another folder, --overwrite removes it'
        )
    for path in [*old, *(folder / name for name in (METRICS_FILE, *_RECORDS))]:
        remove(path)


@contextmanager
def no_remains(work_dir: str | Path) -> Iterator[None]:
    """Remove the log folder and the config of a run that is refused before its first step."""
    folder = Path(work_dir)
    before = set(folder.iterdir()) if folder.is_dir() else None
    try:
        yield
    except InputError:
        new = set(folder.iterdir()) - (before or set()) if folder.is_dir() else set()
        trained = any(_of_training(path) for path in new)
        if is_main() and not trained:
            for path in new:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if before is None and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


def _of_training(path: Path) -> bool:
    """Whether a path in a work folder shows that steps were done."""
    if path.name == TensorBoard.package:
        return True
    return _DATED.fullmatch(path.name) is None and path.suffix != '.py' and path.name not in _RECORDS
