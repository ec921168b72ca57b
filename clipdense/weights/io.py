"""Read and write weights files: reading never runs code, writing is atomic."""

from __future__ import annotations

import hashlib
import json
import struct
import warnings
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clipdense.utils.errors import CheckpointError, InputError
from clipdense.utils.files import atomic_write, regular_file
from clipdense.utils.json_files import read_json

from .names import unwrapped_names
from .torch_files import flatten_modules, read_torch
from .unpickle import Inert, Refused

BARE = 'tensor'  # name of a tensor that is all a file has
WRAPPERS = ('state_dict', 'model_state_dict', 'model', 'module', 'network', 'weights')
_AVERAGES = (  # moving averages of the weights; read if a file has nothing else
    'ema_state_dict', 'state_dict_ema', 'model_ema', 'ema_model', 'ema', 'model_ema_state_dict', 'params_ema',
)  # fmt: skip
_MAX_NESTING = 8  # of entries of a checkpoint
_HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library
_DTYPE_NAMES = {
    torch.float64: 'F64', torch.float32: 'F32', torch.float16: 'F16', torch.bfloat16: 'BF16',
    torch.float8_e4m3fn: 'F8_E4M3', torch.float8_e5m2: 'F8_E5M2', torch.int64: 'I64', torch.int32: 'I32',
    torch.int16: 'I16', torch.int8: 'I8', torch.uint8: 'U8', torch.bool: 'BOOL',
}  # fmt: skip
_LOOKS = {
    b'\x1f\x8b': 'a gzip archive: unpack it first',
    b'7z\xbc\xaf': 'a 7-Zip archive: unpack it first',
    b'Rar!': 'a RAR archive: unpack it first',
    b'\x89HDF': 'an HDF5 file (Keras), which is not supported',
    b'GGUF': 'a GGUF file, which is not supported',
    b'\x93NUMPY': 'a single numpy array',
    b'\x89PNG': 'an image, not weights',
    b'\xff\xd8\xff': 'an image, not weights',
    b'%PDF': 'a PDF document',
    b'{': 'JSON text (an index or a config?), not weights',
    b'[': 'JSON text, not weights',
}


@dataclass(frozen=True)
class WeightsFile:
    """Contents of a weights file.

    Args:
        path: of the file.
        kind: 'safetensors', 'torch', 'torchscript' or 'pickle' (without torch's container).
        tensors: by name; mapped from the file if possible; copy them before the file changes.  A file that is
            one tensor without a name has it as ``BARE``.
        metadata: text metadata (safetensors only).
        extra: other entries of the checkpoint, such as the epoch; objects of other classes are ``Inert``.
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def read_weights(path: str | Path) -> WeightsFile:
    """Read a safetensors file, or a file of ``torch.save`` or ``torch.jit.save``, without running code.

    An ``.index.json`` is read as the files that it lists (sharded models of Hugging Face).  Names are
    unwrapped, see ``unwrapped_names``.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, not a regular file, or has no weights.
    """
    path, head = _head(path)
    if path.name.endswith('.index.json'):
        return _read_shards(path)
    file = _read_safetensors(path) if _is_safetensors(path, head) else _read_torch(path, head)
    try:
        names = unwrapped_names(file.tensors)
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from None
    return replace(file, tensors={names[name]: x for name, x in file.tensors.items() if name in names})


def read_tensor(path: str | Path) -> Tensor:
    """The tensor of a file of ``torch.save`` that has one without a name, read as ``read_weights`` does.

    Raises:
        CheckpointError: as ``read_weights``, or a file that has other tensors.
    """
    tensors = read_weights(path).tensors
    if set(tensors) != {BARE}:
        raise CheckpointError(f'{path} holds not one tensor, but tensors by name: {_listed(list(tensors))}')
    return tensors[BARE]


def _read_torch(path: Path, head: bytes) -> WeightsFile:
    """Read a file of ``torch.save`` or ``torch.jit.save``."""
    with _explained(path, head):
        value, kind = read_torch(path)
        if isinstance(value, Inert) and value.name.startswith('__torch__'):
            return WeightsFile(path, kind, flatten_modules(value))
    if isinstance(value, Tensor):
        return WeightsFile(path, kind, {BARE: value})
    tensors, extra = find_state_dict(value)
    if not tensors:
        raise CheckpointError(f'{path} has no state_dict: no tensors by name{_what_else(value)}')
    average = next((name for name in _AVERAGES if isinstance(value, dict) and name in value), None)
    if average and average not in extra:
        warnings.warn(f'{path} has no weights but their moving average ({average}), which is read')
    return WeightsFile(path, kind, tensors, extra=extra)


@contextmanager
def _explained(path: Path, head: bytes) -> Iterator[None]:
    """Errors of reading a file of torch as ``CheckpointError``."""
    try:
        yield
    except Refused as refusal:
        raise CheckpointError(
            f'{path} is refused as unsafe: its pickle uses {refusal}, which weights do not need (no code was '
            'run); get the model as safetensors, or as a plain state_dict'
        ) from None
    except CheckpointError:
        raise
    except (Exception, RecursionError, MemoryError) as error:  # a damaged file can raise any exception
        raise CheckpointError(_damaged(path, head, error)) from error


def write_weights(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file atomically, one tensor at a time.

    Tensors may share memory and have any strides.

    Raises:
        InputError: the disk is full or not writable; an existing file is left unchanged.
        TypeError: a dtype that safetensors does not support, or metadata that is not text.
    """
    header: dict[str, Any] = {}
    if metadata:
        if not all(isinstance(text, str) for text in (*metadata, *metadata.values())):
            raise TypeError('metadata of a safetensors file must be a dict of str to str')
        header['__metadata__'] = dict(metadata)
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # for alignment
    stop = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPE_NAMES or tensor.layout != torch.strided:
            raise TypeError(f'{name} is {tensor.dtype}, {tensor.layout}, which safetensors does not support')
        start, stop = stop, stop + tensor.numel() * tensor.element_size()
        header[name] = {
            'dtype': _DTYPE_NAMES[tensor.dtype],
            'shape': list(tensor.shape),
            'data_offsets': [start, stop],
        }
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with atomic_write(path, needed=8 + len(text) + stop) as file:
        file.write(struct.pack('<Q', len(text)))
        file.write(text)
        for name in names:
            file.write(_bytes(tensors[name]))


def weights_digest(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values, independent of order, device and strides."""
    total = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name]
        total.update(f'{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0'.encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def find_state_dict(value: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Find the state dict within the entries of a checkpoint; returns it and the other entries."""
    extra: dict[str, Any] = {}
    for _ in range(_MAX_NESTING):
        if not isinstance(value, dict):
            break
        inner = next((name for name in WRAPPERS if _has_tensors(value.get(name))), None)
        tensors = {key: x for key, x in value.items() if isinstance(x, Tensor) and isinstance(key, str)}
        if inner is None and len(tensors) <= 1:  # a number, such as the step
            inner = next((name for name in _AVERAGES if _has_tensors(value.get(name))), None)
        left = tensors if inner is None else {inner: None}
        extra |= {str(key): item for key, item in value.items() if key not in left}
        if inner is None:
            return tensors, extra
        value = value[inner]
    return {}, {}


def _has_tensors(value: Any, depth: int = 0) -> bool:
    """Whether a state dict is in this entry, directly or in a known entry of it."""
    if not isinstance(value, dict) or depth > _MAX_NESTING:
        return False
    if any(isinstance(item, Tensor) and isinstance(key, str) for key, item in value.items()):
        return True
    return any(_has_tensors(value.get(name), depth + 1) for name in (*WRAPPERS, *_AVERAGES))


def _what_else(value: Any) -> str:
    """For an error: the other state dicts of a checkpoint, or its entries."""
    if not isinstance(value, dict):
        return f' (it is a {type(value).__name__}, not a dict)'
    named = [
        str(key) for key, item in value.items() if key not in ('optimizer', 'ema') and _has_tensors(item)
    ]
    if named:
        return f', but state dicts named {", ".join(named[:10])}: save the wanted one in a file of its own'
    return f' (its top-level keys: {sorted(map(str, value))[:10]})'


def _head(path: str | Path) -> tuple[Path, bytes]:
    """The path and first bytes of a regular file, which must exist and not be empty."""
    try:
        path = regular_file(path)
        with open(path, 'rb') as file:
            head = file.read(512)
    except InputError as error:
        folder = ': give the path of the weights file in it' if Path(path).expanduser().is_dir() else ''
        raise CheckpointError(f'{error}{folder}') from None
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error.strerror}') from error
    if not head:
        raise CheckpointError(f'{path} is empty (0 bytes): copy or download it again')
    return path, head


def _is_safetensors(path: Path, head: bytes) -> bool:
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < _HEADER_LIMIT:
        return True
    known = head[:2] == b'PK' or head[:1] == b'\x80' or _looks(head)
    return path.suffix == '.safetensors' and not known


def _read_safetensors(path: Path) -> WeightsFile:
    size = path.stat().st_size
    try:
        with safe_open(path, framework='pt') as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
            return WeightsFile(path, 'safetensors', tensors, file.metadata() or {})
    except (SafetensorError, OSError, ValueError, OverflowError, RuntimeError) as error:
        expected = _expected_size(path)
        if expected is not None and size < expected:
            detail = f'is truncated: {size} of {expected} bytes; copy or download it again'
        else:
            detail = (
                f'is a damaged safetensors file ({size} bytes; {_one_line(error)}): copy or download it again'
            )
        raise CheckpointError(f'{path} {detail}') from error


def shard_names(path: Path) -> dict[str, str]:
    """The ``weight_map`` of an index: tensor -> file in the same folder.

    Raises:
        CheckpointError: not an index, or one that lists other files.
    """
    try:
        index = read_json(path)
    except InputError as error:
        raise CheckpointError(f'{path} is not an index of weights files: {error}') from None
    names = index.get('weight_map') if isinstance(index, dict) else None
    if not isinstance(names, dict):
        raise CheckpointError(f'{path} is not an index of weights files: it has no weight_map')
    strange = sorted({str(name) for name in names.values() if not _is_shard(name)})
    if strange or not names:
        raise CheckpointError(f'{path} must list weights files of its own folder, not {strange[:5]}')
    return names


def _read_shards(path: Path) -> WeightsFile:
    names = shard_names(path)
    tensors: dict[str, Tensor] = {}
    files = [read_weights(path.with_name(name)) for name in sorted(set(names.values()))]
    for file in files:
        if twice := tensors.keys() & file.tensors.keys():
            raise CheckpointError(f'{file.path} repeats tensors of another file: {_listed(sorted(twice))}')
        tensors |= file.tensors
    if missing := unwrapped_names(names).values() - tensors.keys():
        raise CheckpointError(f'{path} lists tensors that its files do not have: {_listed(sorted(missing))}')
    return WeightsFile(path, files[0].kind, tensors)


def _is_shard(name: Any) -> bool:
    """A file of the same folder, and not an index itself."""
    if not isinstance(name, str) or name in ('', '.', '..') or '\0' in name:
        return False
    return not any(mark in name for mark in ('/', '\\')) and not name.endswith('.index.json')


def _listed(names: list[str]) -> str:
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')


def _expected_size(path: Path) -> int | None:
    """The file size that the header of a safetensors file specifies; None if the header is unreadable."""
    try:
        with open(path, 'rb') as file:
            length = int.from_bytes(file.read(8), 'little')
            if length > _HEADER_LIMIT:
                return None
            text = file.read(length)
            if len(text) < length:
                return 8 + length
            entries = [entry for name, entry in json.loads(text).items() if name != '__metadata__']
            return 8 + length + max((entry['data_offsets'][1] for entry in entries), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None


def _looks(head: bytes) -> str:
    """What a file without weights probably is; empty if unknown."""
    start = head.lstrip()[:64].lower()
    if start.startswith((b'<!doctype', b'<html', b'<?xml', b'<head', b'<!--')):
        return 'a web page, not weights: the link is wrong or needs a login; open it in a browser'
    if head.startswith(b'version https://git-lfs'):
        return 'a git-lfs pointer, not the weights: run `git lfs pull` in its repository'
    if head[257:262] == b'ustar':
        return (
            'a tar archive: unpack it first, or if torch before 0.1.10 wrote it, save it with a newer torch'
        )
    look = next((look for magic, look in _LOOKS.items() if head.startswith(magic)), '')
    return look or ('text, not weights: copy or download the weights' if _is_text(head) else '')


def _is_text(head: bytes) -> bool:
    try:
        text = getincrementaldecoder('utf-8')().decode(head)  # may end within a character
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _damaged(path: Path, head: bytes, error: BaseException) -> str:
    """One line: path, size, and what the file probably is."""
    size = path.stat().st_size
    look = _looks(head)
    if look:
        return f'{path} ({size} bytes) is {look}'
    if head[:2] == b'PK' or head[:1] == b'\x80':
        return (
            f'{path} ({size} bytes) is truncated or damaged ({_one_line(error)}): copy or download it again'
        )
    return f'{path} ({size} bytes) is not a weights file: neither safetensors nor written by torch'


def _one_line(error: BaseException) -> str:
    return (' '.join(str(error).split()) or type(error).__name__)[:160]
