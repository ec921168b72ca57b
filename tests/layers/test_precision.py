"""Which precision is chosen on which hardware, and what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import get_args

import pytest
import torch

from clipdense.layers.precision import (
    TrainingPrecision,
    autocast,
    has_native_bf16,
    no_autocast,
    resolve_precision,
    warn_if_emulated,
)
from clipdense.utils.errors import InputError

PACKAGE = Path(__file__).parents[2] / 'clipdense'
CPUS = {
    'zen 4': ('flags\t\t: fpu avx2 avx512f avx512_bf16', True),
    'sapphire rapids': ('flags\t\t: fpu amx_bf16 amx_tile', True),
    'graviton': ('Features\t: fp asimd bf16', True),
    'avx2 only': ('flags\t\t: fpu avx2', False),
    'avx512 without bf16': ('flags\t\t: avx512f', False),
    'nothing said': ('processor: 0', False),
}


@pytest.mark.parametrize(('text', 'native'), CPUS.values(), ids=CPUS)
def test_native_bf16_of_cpus(tmp_path, text, native):
    path = tmp_path / 'cpuinfo'
    path.write_text(f'processor\t: 0\nmodel name\t: bf16 marketing\n{text}\n')
    assert has_native_bf16('cpu', path) == native


def test_native_bf16_without_cpuinfo(tmp_path):
    assert not has_native_bf16('cpu', tmp_path / 'absent')
    assert not has_native_bf16('mps')


@pytest.mark.parametrize(
    ('precision', 'native', 'dtype'),
    [
        ('fp32', True, None),
        ('bf16', True, torch.bfloat16),
        ('bf16', False, torch.bfloat16),
        ('auto', True, torch.bfloat16),
        ('auto', False, None),
    ],
)
@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_chosen(precision, native, dtype, device):
    for known in (('auto', 'fp32', 'bf16'), get_args(TrainingPrecision)):
        assert resolve_precision(precision, device, known, native=native) == dtype


def test_fp16_is_for_training_on_a_gpu():
    assert resolve_precision('fp16', 'cuda', get_args(TrainingPrecision)) == torch.float16
    with pytest.raises(InputError, match='fp16 training needs a GPU'):
        resolve_precision('fp16', 'cpu', get_args(TrainingPrecision))


@pytest.mark.parametrize(
    ('precision', 'message'),
    [
        ('fp16', r"'auto', 'fp32', 'bf16', got 'fp16': .*dtype=torch.float16"),
        (torch.float16, r'dtype=torch.float16'),
        ('fp64', 'dtype=torch.float64'),
        ('bfloat16', "Did you mean 'bf16'"),
        (torch.bfloat16, "Did you mean 'bf16'"),
        ('float32', "Did you mean 'fp32'"),
        ('BF16', "Did you mean 'bf16'"),
        ('int8', "must be one of 'auto', 'fp32', 'bf16', got 'int8'"),
        ('', "got ''"),
        (None, 'got None'),
        (16, 'got 16'),
        (['bf16'], r"got \['bf16'\]"),
    ],
)
def test_refused(precision, message):
    with pytest.raises(InputError, match=message):
        resolve_precision(precision, 'cpu')


def test_a_device_without_autocast():
    with pytest.raises(InputError, match="'bf16' is not available on device 'meta'"):
        resolve_precision('bf16', 'meta')
    with autocast('meta', resolve_precision('auto', 'meta')), no_autocast('meta'):
        pass


def test_emulated_bf16_is_said():
    with pytest.warns(UserWarning, match='this CPU has no bf16 units .* slower than fp32'):
        warn_if_emulated(torch.bfloat16, 'cpu')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warn_if_emulated(None, 'cpu')


def test_contexts():
    a = torch.ones(2, 2)
    with autocast('cpu', torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with no_autocast('cpu'):
            assert (a @ a).dtype == torch.float32
    with autocast('cpu', None):
        assert (a @ a).dtype == torch.float32


def test_one_place_opens_autocast():
    opening = [path for path in PACKAGE.rglob('*.py') if 'torch.autocast(' in path.read_text()]
    assert opening == [PACKAGE / 'layers' / 'precision.py']
