"""Sharded checkpoints: a folder in which each process writes its part, through torch.distributed.checkpoint.

A folder ``step_N`` has the tensors, in files that torch reads for any number of processes::

    model.NAME                weights
    optimizer.NAME.KEY        state of the optimizer of a parameter, such as exp_avg
    ema.NAME                  moving average of the weights

and ``state.pth``, which is a training checkpoint without them (see ``checkpointing``).  It is written under a
temporary name, which is changed when all parts are complete.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, EnumMeta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from clipdense.utils.dist import is_main, world_size
from clipdense.utils.errors import CheckpointError, WriteError
from clipdense.utils.files import explain_write_error
from clipdense.weights.strict import first_names

STATE = 'state.pth'
_INDEX = '.metadata'
_MODULE = 'torch.distributed.checkpoint.metadata'  # of descriptions of tensors
_NAMES = {
    ('torch', 'Size'),
    ('torch.distributed.checkpoint.filesystem', '_StorageInfo'),
    ('torch.serialization', '_get_layout'),
    ('collections', 'OrderedDict'),
    ('pathlib', 'PosixPath'),
    ('pathlib', 'WindowsPath'),
    ('pathlib._local', 'PosixPath'),
    ('datetime', 'datetime'),
}


def parts_of(checkpoint: Mapping[str, Any], names: list[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a training checkpoint by name, and what is left of it.

    Args:
        checkpoint: see ``checkpointing``.
        names: of the parameters of the optimizer, in its order.
    """
    rest = dict(checkpoint)
    tensors = {f'model.{name}': x for name, x in rest.pop('state_dict').items()}
    optimizer = dict(rest['optimizer'])
    for index, state in optimizer.pop('state').items():
        tensors |= {f'optimizer.{names[index]}.{key}': torch.as_tensor(x) for key, x in state.items()}
    rest |= {'optimizer': {**optimizer, 'state': {}}, 'state_dict': {}}
    if 'ema' in rest:
        tensors |= {f'ema.{name}': x for name, x in rest['ema']['weights'].items()}
        rest['ema'] = {**rest['ema'], 'weights': {}}
    return {name: x.detach() for name, x in tensors.items()}, rest


class Writer:
    """Writes sharded checkpoints, if asked beside the training.

    Args:
        asynchronous: tensors are copied, and written while training continues; in several processes only.
    """

    def __init__(self, asynchronous: bool = False) -> None:
        on_cpu = world_size() > 1 and 'gloo' in str(dist.get_backend())
        if asynchronous and world_size() > 1 and not on_cpu:
            warnings.warn(
                'asynchronous checkpoints need '
                "env_cfg=dict(dist_cfg=dict(backend='cpu:gloo,cuda:nccl')): training waits for them",
                stacklevel=2,
            )
        self.asynchronous = asynchronous and on_cpu
        self._group: Any = None
        self._pending: tuple[Any, Path] | None = None

    def start(self, folder: Path, tensors: dict[str, Tensor], rest: Any) -> None:
        """Begin to write; called by all processes.

        Args:
            folder: the final name.
            tensors: by name.
            rest: a function of the path of ``STATE`` that writes it, called in the main process.

        Raises:
            WriteError: no disk space, or no permission.
        """
        part = folder.with_name(f'.{folder.name}.tmp')
        if self._group is None and world_size() > 1:
            self._group = dist.new_group(backend='gloo')  # of the thread that writes
        error = ''
        if is_main():
            try:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                rest(part / STATE)
            except OSError as problem:
                error = explain_write_error(problem, part)
            except WriteError as problem:
                error = str(problem)
        if world_size() > 1:
            found = [error]
            dist.broadcast_object_list(found, src=0)
            error = found[0]
        if error:
            raise WriteError(error)
        writer = FileSystemWriter(part, single_file_per_rank=True, sync_files=True)
        options: dict[str, Any] = {'storage_writer': writer, 'process_group': self._group}
        try:
            if self.asynchronous:
                self._pending = dcp.async_save(tensors, **options), folder
                return
            with _quiet():
                dcp.save(tensors, **options, no_dist=world_size() == 1)
        except Exception as problem:
            raise WriteError(f'{folder} cannot be written: {_short(problem)}') from problem
        self._finish(folder)

    def finished(self, wait: bool = False) -> Path | None:
        """The folder of a checkpoint that has been completed since, or None.

        Args:
            wait: until it is complete.

        Raises:
            WriteError: it could not be written.
        """
        if self._pending is None:
            return None
        future, folder = self._pending
        if not (wait or future.done()):
            return None
        self._pending = None
        try:
            future.result()
        except Exception as problem:
            raise WriteError(f'{folder} cannot be written: {_short(problem)}') from problem
        self._finish(folder)
        return folder

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._pending is not None

    def _finish(self, folder: Path) -> None:
        """Give a complete folder its name; the index of the tensors is written last, by the main process."""
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(folder.with_name(f'.{folder.name}.tmp'), folder)
        if world_size() > 1 and not self.asynchronous:
            dist.barrier()


def read_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, whole or sharded, with those of a checkpoint of any number of processes.

    Raises:
        CheckpointError: the checkpoint is damaged, or has tensors of other names or shapes.
    """
    stored = index_of(folder).state_dict_metadata
    missing = [name for name in tensors if name not in stored]
    other = [
        f'{name} is {tuple(stored[name].size)}, expected {tuple(x.shape)}'  # type: ignore[union-attr]
        for name, x in tensors.items()
        if name in stored and tuple(stored[name].size) != tuple(x.shape)  # type: ignore[union-attr]
    ]
    known = {name.split('.')[0] for name in tensors}
    leftover = [n for n in stored if n not in tensors and n.split('.')[0] in known]
    faults = {'missing': missing, 'of another shape': other, 'unexpected': leftover}
    problems = '; '.join(f'{len(n)} {what} ({first_names(n, 3)})' for what, n in faults.items() if n)
    if problems:
        raise CheckpointError(f'{folder} does not match this run: {problems}')
    try:
        with _quiet():
            dcp.load(dict(tensors), storage_reader=_Reader(folder), no_dist=world_size() == 1)
    except Exception as problem:
        raise CheckpointError(f'cannot read {folder} as a checkpoint: {_short(problem)}') from problem


def optimizer_state(folder: Path, names: list[str], parameters: Iterable[nn.Parameter]) -> dict[int, Any]:
    """Empty states of the optimizer, as a checkpoint has them, and as the parameters are sharded."""
    stored, states = index_of(folder).state_dict_metadata, {}
    for index, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        start = f'optimizer.{name}.'
        state = {}
        for key, entry in stored.items():
            if key.startswith(start) and '.' not in key.removeprefix(start):
                same = tuple(entry.size) == tuple(parameter.shape)  # type: ignore[union-attr]
                same = same and parameter.ndim > 0
                dtype = entry.properties.dtype  # type: ignore[union-attr]
                state[key.removeprefix(start)] = (
                    torch.zeros_like(parameter.detach()) if same else torch.zeros(entry.size, dtype=dtype)  # type: ignore[union-attr]
                )
        if state:
            states[index] = state
    return states


def average_names(folder: Path) -> list[str]:
    """Names of the averaged weights in a checkpoint."""
    return [n.removeprefix('ema.') for n in index_of(folder).state_dict_metadata if n.startswith('ema.')]


def index_of(folder: Path) -> Metadata:
    """The index of the tensors; runs no code of the file.

    Raises:
        CheckpointError: it is missing or damaged, or names anything but descriptions of tensors.
    """
    try:
        index = _Reader(folder).read_metadata()
    except Exception as problem:
        raise CheckpointError(f'cannot read {folder / _INDEX}: {_short(problem)}') from problem
    kinds = index.state_dict_metadata.values()
    if any(isinstance(entry, BytesStorageMetadata) for entry in kinds):
        raise CheckpointError(f'{folder} is not a checkpoint of clipdense: it contains more than tensors')
    return index


def damage(folder: Path) -> str | None:
    """What a folder lacks, or None; the tensors are not read."""
    if not (folder / _INDEX).is_file() or not (folder / STATE).is_file():
        return 'is incomplete: an interrupted checkpoint'
    try:
        index = index_of(folder)
    except CheckpointError as error:
        return f'is damaged: {error}'
    needed: dict[str, int] = {}
    for info in (index.storage_data or {}).values():
        needed[info.relative_path] = max(needed.get(info.relative_path, 0), info.offset + info.length)
    for name, size in needed.items():
        path = folder / name
        if not path.is_file():
            return f'is incomplete: {name} is missing'
        if path.stat().st_size < size:
            return f'is damaged: {name} has {path.stat().st_size} bytes, expected {size}'
    return None


class _Reader(FileSystemReader):
    """torch's reader, whose index is unpickled without running code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / _INDEX).open('rb') as file:
            index = _Index(file).load()
        if not isinstance(index, Metadata):
            raise pickle.UnpicklingError('it is not an index of tensors')
        meta = getattr(index, 'storage_meta', None) or dcp.metadata.StorageMeta()
        meta.load_id = self.load_id
        index.storage_meta = meta
        return index


class _Index(pickle.Unpickler):
    """Descriptions of tensors only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ('builtins', 'getattr'):
            return _member
        dtype = module == 'torch' and isinstance(
            getattr(torch, name, None), torch.dtype | torch.memory_format
        )
        if (module, name) in _NAMES or dtype:
            return super().find_class(module, name)
        kind = super().find_class(module, name) if module == _MODULE else None
        if isinstance(kind, type) and kind.__module__ == _MODULE:
            return kind
        raise pickle.UnpicklingError(f'it names {module}.{name}')


def _member(kind: Any, name: str) -> Enum:
    """``getattr`` for members of an enumeration only, which is how Python 3.11.0 to 3.11.3 pickle them."""
    if not isinstance(kind, EnumMeta) or name not in kind.__members__:
        raise pickle.UnpicklingError(f'it names {name} of {kind!r}')
    return kind[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark that there is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='torch.distributed is disabled')
        yield


def _short(problem: BaseException) -> str:
    text = ' '.join(str(problem).split()) or type(problem).__name__
    return text[:200]
