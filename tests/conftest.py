"""Fixtures for material outside the repository; tests that need it are skipped where it is absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

_SHARED = Path(__file__).resolve().parents[2] / 'shared'


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable) or default)
    if not folder.is_dir():
        pytest.skip(f'{folder} is absent: set {variable} to the folder that holds it')
    return folder


@pytest.fixture
def golden_path():
    """``golden_path('name.pt') -> Path`` of an official output file."""

    def find(name: str) -> Path:
        path = _folder('CLIPDENSE_GOLDEN', _SHARED / 'golden') / name
        if not path.is_file():
            pytest.skip(f'{path} is absent')
        return path

    return find


@pytest.fixture
def golden(golden_path):
    """``golden('clip_aux') -> (tensors, meta)``: an official run on a tiny random model."""
    from safetensors.torch import load_file

    def read(name: str) -> tuple[dict[str, torch.Tensor], dict]:
        meta = json.loads(golden_path(f'{name}.json').read_text())
        return load_file(golden_path(f'{name}.safetensors')), meta

    return read


@pytest.fixture
def real_data():
    """``real_data('camvid') -> Path`` of a small real dataset."""

    def find(name: str) -> Path:
        folder = _folder('CLIPDENSE_TEST_DATA', _SHARED / 'data') / name
        if not folder.is_dir():
            pytest.skip(f'{folder} is absent')
        return folder

    return find


torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
