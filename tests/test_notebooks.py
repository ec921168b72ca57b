"""The notebooks of ``examples`` run from top to bottom, offline; they are kept without outputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'examples').glob('*.ipynb'))


@pytest.fixture
def read():
    nbformat = pytest.importorskip('nbformat', reason='pip install nbclient ipykernel')
    return lambda path: nbformat.read(path, as_version=4)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path, read):
    cells = [cell for cell in read(path).cells if cell.cell_type == 'code']
    assert cells
    assert not [cell for cell in cells if cell.outputs or cell.execution_count is not None]


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, read, embedded_cache, tmp_path, monkeypatch):
    nbclient = pytest.importorskip('nbclient')
    pytest.importorskip('ipykernel')
    monkeypatch.setenv('CLIPDENSE_CACHE', str(embedded_cache))
    monkeypatch.setenv('CLIPDENSE_OFFLINE', '1')
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('PATH', f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    (tmp_path / 'folder').mkdir()
    where = {'metadata': {'path': str(tmp_path / 'folder')}}
    notebook = nbclient.NotebookClient(
        read(path), timeout=600, kernel_name='python3', resources=where
    ).execute()
    texts = [output for cell in notebook.cells if cell.cell_type == 'code' for output in cell.outputs]
    assert [output for output in texts if output.output_type in ('execute_result', 'stream')]
    assert not [output for output in texts if output.get('name') == 'stderr' and 'Traceback' in output.text]
