"""Precision: what models compute in (autocast), and sensitive steps in fp32."""

from __future__ import annotations

import functools
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from clipdense.utils.device_names import PRECISIONS, check_precision
from clipdense.utils.errors import InputError

Precision = Literal['auto', 'fp32', 'bf16']  # of inference
TrainingPrecision = Literal['auto', 'fp32', 'bf16', 'fp16']

_AUTOCAST = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
_NAMES = {torch.float32: 'fp32', torch.bfloat16: 'bf16', torch.float16: 'fp16', torch.float64: 'fp64'}
_NATIVE_BF16 = {'avx512_bf16', 'amx_bf16', 'bf16'}  # x86, x86, ARM
_CPUINFO = Path('/proc/cpuinfo')


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision becomes single; single and double stay."""
    return x.to(dtype_at_least_fp32(x))


def dtype_at_least_fp32(x: Tensor) -> torch.dtype:
    """fp64 for double, else fp32."""
    return torch.promote_types(x.dtype, torch.float32)


def precision_name(dtype: torch.dtype) -> str:
    """'fp32', 'bf16', 'fp16' or 'fp64'."""
    return _NAMES.get(dtype, str(dtype))


def has_native_bf16(device: str | torch.device, cpuinfo: Path = _CPUINFO) -> bool:
    """Whether a device multiplies bf16 matrices in hardware.

    GPUs of compute capability 8.0, and CPUs with AMX, AVX512-BF16 or the bf16 extension of ARM.
    """
    device = torch.device(device)
    if device.type == 'cuda' and torch.cuda.is_available():
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == 'cpu' and not _NATIVE_BF16.isdisjoint(_cpu_flags(cpuinfo))


def resolve_precision(
    precision: str,
    device: str | torch.device,
    known: tuple[str, ...] = PRECISIONS,
    native: bool | None = None,
) -> torch.dtype | None:
    """The dtype of autocast; None computes in the type of the parameters.

    Args:
        precision: 'auto' is bf16 where the device has bf16 units, else fp32.  'bf16' on another device is
            emulated: correct and slow.
        device: of the model.
        known: the precisions to choose from; training also has 'fp16'.
        native: whether the device has bf16 units; asked by default.

    Raises:
        InputError: an unknown name, fp16 without a GPU, or a device without autocast.
    """
    device = torch.device(device)
    check_precision(precision, known)
    if precision == 'auto':
        native = has_native_bf16(device) if native is None else native
        return torch.bfloat16 if native else None
    if precision == 'fp16' and device.type != 'cuda':
        raise InputError("fp16 training needs a GPU; use precision='auto', 'bf16' or 'fp32'")
    if precision == 'bf16' and not torch.amp.is_autocast_available(device.type):
        raise InputError(f"precision='bf16' is not available on device {str(device)!r}: use 'fp32'")
    return _AUTOCAST[precision]


def warn_if_emulated(
    dtype: torch.dtype | None, device: str | torch.device, setting: str = 'precision'
) -> None:
    """Say that bf16 is slow on this device, where it has no bf16 units.

    Args:
        dtype: of computations.
        device: of the model.
        setting: name of the setting that asked for it.

    Warns:
        UserWarning: it has none.
    """
    device = torch.device(device)
    if dtype == torch.bfloat16 and not has_native_bf16(device):
        name = 'GPU' if device.type == 'cuda' else device.type.upper()
        warnings.warn(
            f"{setting}='bf16': this {name} has no bf16 units and emulates them, which is slower than fp32; "
            "precision='auto' uses bf16 only where the hardware has it"
        )


def autocast(device: str | torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """The context in which matrix products and convolutions are computed in ``dtype``.

    Parameters keep their type.  This is the only place that opens autocast.

    Args:
        device: of the model.
        dtype: as ``resolve_precision`` returns it; None leaves everything as it is.
    """
    return nullcontext() if dtype is None else torch.autocast(torch.device(device).type, dtype=dtype)


def no_autocast(device: str | torch.device) -> AbstractContextManager:
    """The context of a sensitive step, which is computed in the type of its tensors also under autocast."""
    kind = torch.device(device).type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


@functools.lru_cache
def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    """The instructions of the processor, as Linux lists them."""
    if not cpuinfo.is_file():
        return frozenset()
    with cpuinfo.open(errors='replace') as lines:
        flags = next((line for line in lines if line.lower().startswith(('flags', 'features'))), '')
    return frozenset(flags.split())
