"""Names of devices, data types and precisions as users write them, checked without importing PyTorch."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from .errors import InputError, nearest

DTYPE_NAMES = {
    'float32': ('fp32', 'float', 'single'),
    'float16': ('fp16', 'half'),
    'bfloat16': ('bf16',),
    'float64': ('fp64', 'double'),
}
PRECISIONS = ('auto', 'fp32', 'bf16')
_KINDS = ('cpu', 'cuda', 'mps', 'xpu', 'hpu', 'xla', 'mtia', 'ipu', 'npu', 'privateuseone')
_FORM = re.compile(r'([a-z]+)(?::(\d+))?')
_OTHER_NAMES = ('gpu', 'nvidia', 'rocm')
_GPU_FILES = ('nvidia*', 'nvhost*', 'nvmap', 'kfd', 'dxg')  # in /dev: NVIDIA, Jetson, AMD, WSL


def device_name(device: str | int) -> str:
    """The name that PyTorch has for a device: ``0`` and ``'0'`` are 'cuda:0'.

    Raises:
        InputError: a text of another form, with what is meant.
    """
    text = str(device).strip().lower()
    if text.isdecimal():
        return f'cuda:{int(text)}'
    if text == 'meta':
        raise InputError("device 'meta' holds no values: use 'cpu' or 'cuda'")
    match = _FORM.fullmatch(text)
    if match is None or match[1] not in _KINDS:
        kind, _, number = text.partition(':')
        if kind in _OTHER_NAMES:
            hint = f" Did you mean 'cuda:{number if number.isdecimal() else 0}'?"
        else:
            hint = nearest(kind, _KINDS)
        raise InputError(f'device {str(device)!r} is unknown: use cpu, cuda, cuda:1, mps or xpu.{hint}')
    return text


def refuse_missing_gpu(name: str) -> None:
    """Refuse a GPU on a computer that has none, as far as the operating system tells.

    Raises:
        InputError: Linux has no device file of a GPU.
    """
    if name.startswith('cuda') and sys.platform == 'linux':
        if not any(any(Path('/dev').glob(pattern)) for pattern in _GPU_FILES):
            raise InputError(f"device {name!r} is not available (this computer has no GPU): try device='cpu'")


def dtype_name(dtype: str) -> str:
    """'fp16', 'half' or 'torch.float16' -> 'float16', the name that PyTorch has.

    Raises:
        InputError: another name.
    """
    text = dtype.strip().lower().removeprefix('torch.')
    for name, others in DTYPE_NAMES.items():
        if text in (name, *others):
            return name
    raise InputError(f'dtype must be {", ".join(DTYPE_NAMES)}, got {dtype!r}.{nearest(text, DTYPE_NAMES)}')


def check_precision(precision: object, known: tuple[str, ...] = PRECISIONS) -> None:
    """Check the name of a precision.

    Args:
        precision: what was given.
        known: the precisions to choose from; training also has 'fp16'.

    Raises:
        InputError: another name.
    """
    if isinstance(precision, str) and precision in known:
        return
    choices = f'precision must be one of {", ".join(map(repr, known))}, got {precision!r}'
    text = str(precision).removeprefix('torch.')
    if text in ('fp16', 'half', 'float16'):
        choices += ': fp16 is for training on a GPU, and for parameters (dtype=torch.float16)'
    elif text in ('float64', 'double', 'fp64'):
        choices += ': for parameters in double precision load them with dtype=torch.float64'
    elif text in ('bfloat16', 'float32'):
        choices += f'. Did you mean {"bf16" if text == "bfloat16" else "fp32"!r}?'
    elif isinstance(precision, str):
        choices += f'.{nearest(text.lower(), known)}'
    raise InputError(choices)
