"""Read pickles without running code.

A pickle is a program for a stack machine.  The machine here supports tensors, containers, numbers and text;
a closed list of harmless classes in official files becomes inert records (never imported), and any other
name is refused.  ``torch.load(weights_only=True)`` is not used: before torch 2.6 it could be made to run code
(CVE-2025-32434), and it refuses TorchScript archives.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

# Classes in official files other than tensors: settings, histories, optimizer helpers.
INERT_PACKAGES = {
    'addict', 'argparse', 'datetime', 'easydict', 'enum', 'fvcore', 'lightning', 'lightning_fabric', 'mmcv',
    'mmengine', 'ml_collections', 'omegaconf', 'pathlib', 'pytorch_lightning', 'typing', 'yacs',
}  # fmt: skip
INERT_NAMES = {
    'builtins.bool', 'builtins.bytearray', 'builtins.bytes', 'builtins.float', 'builtins.int',
    'builtins.object', 'builtins.range', 'builtins.slice', 'builtins.str', 'numpy.ndarray', 'torch.Tensor',
    'torch.device', 'torch.nn.parameter.Parameter', 'torch.nn.Parameter', 'uuid.UUID',
}  # fmt: skip
STORAGES = {
    'DoubleStorage': torch.float64, 'FloatStorage': torch.float32, 'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16, 'LongStorage': torch.int64, 'IntStorage': torch.int32,
    'ShortStorage': torch.int16, 'CharStorage': torch.int8, 'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool, 'ComplexFloatStorage': torch.complex64,
    'ComplexDoubleStorage': torch.complex128, 'UntypedStorage': torch.uint8,
}  # fmt: skip
_Unpickler: Any = pickle._Unpickler  # the pure Python implementation
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_OLD_MODULES = {'__builtin__': 'builtins', 'copy_reg': 'copyreg', 'numpy._core': 'numpy.core'}


@dataclass
class Inert:
    """Placeholder for an object of another class: its name and contents, no behavior."""

    name: str
    args: tuple = ()
    state: Any = None
    items: dict = field(default_factory=dict)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Items of a list-like class are stored by index."""
        self.items[len(self.items)] = value


class Mapping(dict):
    """An OrderedDict or defaultdict; attributes set by a pickle are dropped."""


class Global(NamedTuple):
    """A name in a pickle, and the function that replaces calls of it."""

    name: str
    make: Callable[..., Any]
    inert: bool = False


class StorageRecord(NamedTuple):
    """A storage by its key in the file."""

    key: str
    dtype: torch.dtype
    start: int  # byte offset into the stored data, for views in legacy files
    length: int  # elements


class TensorRecord(NamedTuple):
    """A tensor whose storage has not been read."""

    storage: StorageRecord
    offset: int
    size: tuple
    stride: tuple
    dtype: torch.dtype


@dataclass
class _Dtype:
    """numpy.dtype; its byte order is set by BUILD."""

    code: str
    state: Any = None

    def numpy(self) -> np.dtype | None:
        """The dtype, or None if it is neither numeric nor text."""
        order = self.state[1] if isinstance(self.state, tuple) and self.state[1] in ('<', '>') else '<'
        return np.dtype(order + self.code) if re.fullmatch(r'b1|[iufcSU]\d{1,4}', self.code) else None


@dataclass
class ArrayRecord:
    """numpy.ndarray; its contents are set by BUILD."""

    state: Any = None

    def tensor(self) -> Any:
        """A tensor, or a list if the array is of text."""
        _, shape, dtype, fortran, raw = self.state
        if dtype.numpy() is None or not isinstance(raw, bytes):
            return Inert('numpy.ndarray')  # of objects
        values = np.frombuffer(raw, dtype.numpy()).reshape(shape, order='F' if fortran else 'C')
        if values.dtype.kind in 'SU':
            return values.tolist()
        return torch.from_numpy(values.astype(values.dtype.newbyteorder('=')))


class Refused(Exception):
    """The pickle uses something that weights do not need; the message names it."""


def _tensor(storage: StorageRecord, offset: int, size: tuple, stride: tuple, *_: Any) -> TensorRecord:
    return TensorRecord(storage, offset, tuple(size), tuple(stride), storage.dtype)


def _tensor_v3(storage: StorageRecord, offset: int, size: tuple, stride: tuple, *rest: Any) -> TensorRecord:
    return TensorRecord(storage, offset, tuple(size), tuple(stride), rest[2])


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise Refused(f'a call of {type(function).__name__}')
    return function.make(*arguments)


def _inert(name: str) -> Global:
    return Global(name, lambda *arguments: Inert(name, arguments), inert=True)


def _attribute(owner: Any, name: Any, *_: Any) -> Global:
    """``getattr`` as in pickled methods of HistoryBuffer: only names within an inert class."""
    if isinstance(owner, Global) and owner.inert and isinstance(name, str):
        return _inert(f'{owner.name}.{name}')
    raise Refused('builtins.getattr')


def _scalar(dtype: _Dtype, raw: bytes) -> Any:
    plain = dtype.numpy()
    return Inert('numpy.generic') if plain is None else np.frombuffer(raw, plain)[0].item()


def _encode(text: str, encoding: str = 'latin1') -> bytes:
    return text.encode('latin1' if encoding != 'utf-8' else 'utf-8')


def _first(value: Any, *_: Any) -> Any:
    return value


def _mapping(items: Any = (), *_: Any) -> Mapping:
    pairs = items.items() if isinstance(items, dict) else items
    return Mapping((_key(key), value) for key, value in pairs)


def _key(value: Any) -> Any:
    """Refuse nested keys: hashing a deeply nested tuple would overflow the C stack."""
    if isinstance(value, tuple | frozenset) and any(isinstance(item, tuple | frozenset) for item in value):
        raise Refused('a nested key')
    return value


def _keys(items: Any = ()) -> list:
    return [_key(item) for item in items]


CALLS: dict[str, Callable[..., Any]] = {
    'collections.OrderedDict': _mapping,
    'collections.defaultdict': lambda *_: Mapping(),
    'collections.Counter': _mapping,
    'builtins.dict': _mapping,
    'builtins.getattr': _attribute,
    'builtins.set': lambda items=(): set(_keys(items)),
    'builtins.frozenset': lambda items=(): frozenset(_keys(items)),
    'builtins.list': lambda items=(): list(items),
    'builtins.tuple': lambda items=(): tuple(items),
    'builtins.complex': lambda real, imaginary=0.0: complex(float(real), float(imaginary)),
    '_codecs.encode': _encode,
    'copyreg._reconstructor': lambda cls, *_: _call(cls, ()),
    'torch.Size': lambda sizes=(): tuple(sizes),
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_v3,
    'torch._utils._rebuild_parameter': _first,
    'torch._utils._rebuild_parameter_with_state': _first,
    'torch._tensor._rebuild_from_type': lambda function, _type, arguments, *_: _call(function, arguments),
    'torch._tensor._rebuild_from_type_v2': lambda function, _type, arguments, *_: _call(function, arguments),
    'torch.jit._pickle.restore_type_tag': _first,
    'torch.jit._pickle.build_intlist': _first,
    'torch.jit._pickle.build_doublelist': _first,
    'torch.jit._pickle.build_boollist': _first,
    'torch.jit._pickle.build_tensorlist': _first,
    'numpy.dtype': lambda code, *_: _Dtype(str(code).lstrip('<>|=')),
    'numpy.core.multiarray.scalar': _scalar,
    'numpy.core.multiarray._reconstruct': lambda *_: ArrayRecord(),
    'numpy.core.numeric._frombuffer': lambda raw, dtype, shape, order: ArrayRecord(
        (1, shape, dtype, order == 'F', bytes(raw))
    ),
}


class Machine(_Unpickler):  # every opcode that could run code is replaced
    """Runs a pickle with plain values, names and records only.

    Raises:
        Refused: the pickle uses anything else.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: dict[str, torch.dtype] = {}  # storages that the pickle refers to

    def find_class(self, module: str, name: str) -> Any:
        for old, new in _OLD_MODULES.items():
            if module == old or module.startswith(old + '.'):
                module = new + module[len(old) :]
        full = f'{module}.{name}'
        if full in CALLS:
            return Global(full, CALLS[full])
        if module == 'torch' and name in _DTYPES:
            return _DTYPES[name]
        if module in ('torch', 'torch.storage') and name in STORAGES:
            return Global(name, Inert)
        harmless = module.split('.')[0] in INERT_PACKAGES or full in INERT_NAMES
        if harmless or module.startswith('__torch__'):
            return _inert(full)
        raise Refused(full)

    def persistent_load(self, pid: Any) -> StorageRecord:
        kind, storage, key, _, count, *view = pid
        if kind != 'storage' or not isinstance(storage, Global) or storage.name not in STORAGES:
            raise Refused(f'a persistent object of kind {kind!r}')
        dtype, start = STORAGES[storage.name], 0
        if view and view[0] is not None:
            _, offset, count = view[0]
            start = offset * dtype.itemsize
        if not (isinstance(count, int) and isinstance(start, int) and count >= 0 and start >= 0):
            raise ValueError('a storage of a negative size')
        self.storages[str(key)] = dtype
        return StorageRecord(str(key), dtype, start, count)

    def get_extension(self, code: int) -> Any:
        raise Refused(f'the registered extension {code}')

    def _instantiate(self, cls: Any, arguments: Any) -> None:  # INST and OBJ
        self.stack.append(_call(cls, tuple(arguments)))

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _call(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        keywords = self.stack.pop()
        if keywords:
            raise Refused('an object created from keyword arguments')
        self.load_reduce()

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert | _Dtype | ArrayRecord):
            target.state = state
        elif not isinstance(target, Mapping):
            raise Refused(f'a change of the state of {type(target).__name__}')

    def load_setitem(self) -> None:
        _key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        _keys(self.stack[::2])
        super().load_setitems()

    def load_additems(self) -> None:
        _keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        _keys(self.stack)
        super().load_frozenset()

    dispatch = dict(_Unpickler.dispatch)  # noqa: RUF012, name in the base class
    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = load_reduce
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]], dispatch[pickle.SETITEMS[0]] = load_setitem, load_setitems
    dispatch[pickle.ADDITEMS[0]], dispatch[pickle.FROZENSET[0]] = load_additems, load_frozenset
    for opcode in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        del dispatch[opcode[0]]
