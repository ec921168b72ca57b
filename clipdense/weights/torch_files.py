"""Read the containers of ``torch.save`` and ``torch.jit.save``: zip, and the formats before torch 1.6."""

from __future__ import annotations

import io
import mmap
import re
import struct
import sys
import zipfile
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipdense.utils.errors import CheckpointError

from .unpickle import ArrayRecord, Global, Inert, Machine, StorageRecord, TensorRecord

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_EXPANDED = 1 << 24  # elements; a larger tensor must be stored in full
_MODULES, _MODULE_DEPTH = 100_000, 100  # of TorchScript
_SHARED = 8  # tensors may share memory: their total size is at most this multiple of the file's, or _EXPANDED
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name


def read_torch(path: Path) -> tuple[Any, str]:
    """Read everything in a file of torch, and its kind: 'torch', 'torchscript' or 'pickle'.

    Tensors are mapped from the file: copy them before the file changes.

    Raises:
        CheckpointError: a zip archive that torch did not write.
        Refused: the pickle uses something that weights do not need.
        Exception: any, for a damaged file.
    """
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _read_zip(path, data) if data[:2] == b'PK' else _read_legacy(path, data)


def flatten_modules(module: Inert) -> dict[str, Tensor]:
    """The tensors of a TorchScript module and its submodules, by dotted names.

    Raises:
        ValueError: modules within themselves, or too many.
    """
    tensors: dict[str, Tensor] = {}
    pending, seen = [('', module)], 0
    while pending:
        prefix, part = pending.pop()
        seen += 1
        if seen > _MODULES or prefix.count('.') > _MODULE_DEPTH:
            raise ValueError('modules within themselves, or too many modules')
        for name, value in part.state.items() if isinstance(part.state, dict) else ():
            if isinstance(value, Tensor):
                tensors[f'{prefix}{name}'] = value
            elif isinstance(value, Inert):
                pending.append((f'{prefix}{name}.', value))
    return tensors


def _read_zip(path: Path, data: mmap.mmap) -> tuple[Any, str]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix('data.pkl') for name in members if re.fullmatch(r'([^/]+/)?data\.pkl', name)]
    if len(roots) != 1:
        raise CheckpointError(f'{path} {_other_archive(members)}')
    (root,) = roots
    order = members.get(f'{root}byteorder')
    stored = _bytes(data, order).decode('ascii') if order else 'little'
    source = _Source(path, swapped=stored != sys.byteorder)
    for name, info in members.items():
        if name.startswith(f'{root}data/'):
            source.places[name.removeprefix(f'{root}data/')] = (_first_byte(data, info), info.file_size)
    value = Machine(io.BytesIO(_bytes(data, members[f'{root}data.pkl']))).load()
    kind = 'torchscript' if f'{root}constants.pkl' in members else 'torch'
    return _resolve(value, source, {}), kind


def _other_archive(members: dict[str, zipfile.ZipInfo]) -> str:
    if any(name.endswith('.npy') for name in members):
        return (
            'is a numpy archive of big_vision, which is not supported: load it with open_clip and save its '
            'state_dict, or use the same model from Hugging Face'
        )
    return 'is a zip archive that torch did not write: unpack it and name the weights file inside'


def _first_byte(data: mmap.mmap, member: zipfile.ZipInfo) -> int:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError('compressed members, which torch never writes')
    header = data[member.header_offset : member.header_offset + _LOCAL_HEADER]
    name_length, extra_length = struct.unpack('<HH', header[26:30])
    return member.header_offset + _LOCAL_HEADER + name_length + extra_length


def _bytes(data: mmap.mmap, member: zipfile.ZipInfo) -> bytes:
    start = _first_byte(data, member)
    return data[start : start + member.file_size]


def _read_legacy(path: Path, data: mmap.mmap) -> tuple[Any, str]:
    """Read magic number, version, machine, object, keys and storages, in this order; or a plain pickle."""
    first = Machine(data).load()
    source = _Source(path)
    if type(first) is not int or first != _LEGACY_MAGIC:
        return _resolve(first, source, {}), 'pickle'
    Machine(data).load()
    little = Machine(data).load()['little_endian']
    source.swapped = little != (sys.byteorder == 'little')
    machine = Machine(data)
    value = machine.load()
    for key in Machine(data).load():
        (count,) = struct.unpack('<q' if little else '>q', data.read(8))
        length = count * machine.storages[key].itemsize
        if count < 0 or data.tell() + length > source.size:
            raise EOFError('the file ends before its last storage')
        source.places[key] = (data.tell(), length)
        data.seek(length, io.SEEK_CUR)
    return _resolve(value, source, {}), 'torch'


class _Source:
    """The bytes of a file, mapped into memory copy-on-write."""

    def __init__(self, path: Path, swapped: bool = False) -> None:
        self.size = path.stat().st_size
        self.bytes = torch.UntypedStorage.from_file(str(path), False, self.size)
        self.swapped = swapped  # stored in another byte order than this machine's
        self.places: dict[str, tuple[int, int]] = {}  # key -> first byte, number of bytes
        self.storages: dict[StorageRecord, torch.UntypedStorage] = {}
        self.total = 0  # bytes of all tensors, if copied

    def tensor(self, record: TensorRecord) -> Tensor:
        """Rebuild a tensor; tensors that shared a storage share it again."""
        storage = self._storage(record.storage)
        size, stride, offset = record.size, record.stride, record.offset
        if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
            raise ValueError(f'a tensor of size {size} and stride {stride}')
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        elements, count = prod(size), len(storage) // record.dtype.itemsize
        if elements and (last >= count or elements > max(count, _EXPANDED)):
            raise ValueError(f'a tensor of size {size} in a storage of {count}')
        self.total += elements * record.dtype.itemsize
        if self.total > max(_SHARED * self.size, 8 * _EXPANDED):
            raise ValueError(f'its tensors would need more than {self.total / 1e6:.0f} MB')
        tensor = torch.empty(0, dtype=record.dtype)
        tensor.set_(storage, offset if elements else 0, size, stride)
        return _swap(tensor) if self.swapped else tensor

    def _storage(self, record: StorageRecord) -> torch.UntypedStorage:
        if record in self.storages:
            return self.storages[record]
        place, available = self.places[record.key]
        start, length = place + record.start, record.length * record.dtype.itemsize
        if record.start + length > available or place + available > self.size:
            raise EOFError('a storage extends past the end of the file')
        storage = self.bytes[start : start + length]
        if start % 16:
            storage = storage.clone()  # legacy files do not align storages
        self.storages[record] = storage
        return storage


def _swap(tensor: Tensor) -> Tensor:
    """The same elements with swapped byte order."""
    width = tensor.element_size() // (2 if tensor.is_complex() else 1)
    flipped = tensor.contiguous().reshape(-1).view(torch.uint8).view(-1, width).flip(1)
    return flipped.reshape(-1).view(tensor.dtype).view(tensor.shape)


def _resolve(value: Any, source: _Source, seen: dict[int, tuple[Any, Any]]) -> Any:
    """Replace records by tensors; containers are filled in place, to support cycles."""
    if id(value) in seen:
        return seen[id(value)][1]
    result = value
    if isinstance(value, TensorRecord):
        result = source.tensor(value)
    elif isinstance(value, ArrayRecord):
        result = value.tensor()
    elif isinstance(value, Global):
        result = Inert(value.name)
    elif type(value) is tuple:
        result = tuple(_resolve(item, source, seen) for item in value)
    seen[id(value)] = value, result  # keeps the value alive, so that its id is not reused
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _resolve(item, source, seen)
    elif isinstance(value, list):
        value[:] = [_resolve(item, source, seen) for item in value]
    elif isinstance(value, Inert):
        value.state = _resolve(value.state, source, seen)
        value.items = _resolve(value.items, source, seen)
    return result
