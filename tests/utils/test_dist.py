"""Joining the processes that torchrun started."""

from __future__ import annotations

import socket

import pytest
import torch.distributed as dist
from torch.multiprocessing import spawn

from clipdense.utils.dist import all_gather_object, processes_of_torchrun, world_size


def test_alone_nothing_happens(monkeypatch):
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    with processes_of_torchrun():
        assert not dist.is_initialized()


def worker(rank, port):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': 2}.items():
            patch.setenv(name, str(value))
        patch.setenv('MASTER_ADDR', '127.0.0.1')
        patch.setenv('MASTER_PORT', str(port))
        with processes_of_torchrun():
            assert world_size() == 2
            assert all_gather_object(rank) == [0, 1]
        assert world_size() == 1


def test_two_processes_meet():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    spawn(worker, (port,), nprocs=2)
