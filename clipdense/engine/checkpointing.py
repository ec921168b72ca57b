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

import pickle
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch import Tensor

from clipdense.utils.errors import CheckpointError
from clipdense.utils.files import atomic_write

from . import sharded_checkpoint
from .health import weights_fault
from .resume import Position

FORMAT = 'clipdense-training-1'
POINTER = 'last_checkpoint'  # MMEngine's name for it
BEST = 'best.pth'
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
    return [path for path in found if step_of(path) >= 0]


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
    found = sorted(steps_in(folder), key=lambda path: (path.stat().st_mtime_ns, step_of(path)))
    pointer = folder / POINTER
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
    named = [folder / name for name in (POINTER, BEST) if (folder / name).is_file()]
    return [*named, *sorted(steps_in(folder), key=step_of)]


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
    orphans = [path for name in ('step_*.pth', BEST, POINTER) for path in Path(folder).glob(f'.{name}.*.tmp')]
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


def _bytes(value: Any) -> int:
    """Bytes of the tensors in nested containers."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint; -1 if it has none."""
    number = re.fullmatch(r'step_(\d+)', path.stem)
    return int(number[1]) if number else -1


def _warn(message: str) -> None:
    from mmengine.logging import print_log

    print_log(message, logger='current', level=30)
