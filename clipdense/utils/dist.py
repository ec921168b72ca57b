"""Helpers for distributed processes.  All of them also work in a single process without set-up.

P: processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar('Item')


def world_size() -> int:
    """Number of processes in the default group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main() -> bool:
    """True in the one process that writes files and prints."""
    return rank() == 0


@contextmanager
def processes_of_torchrun() -> Iterator[None]:
    """Initialize the process group of torchrun, one GPU per process; does nothing in a single process.

    For work without gradients: the timeout is seven days.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group('gloo', timeout=timedelta(days=7))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count())
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather_with_grad(tensor: Tensor) -> Tensor:
    """(B, ...) of each process -> (P * B, ...) in order of rank; gradients flow back to every process.

    B must be equal in all processes.
    """
    if world_size() == 1:
        return tensor
    return _Gather.apply(tensor)


def gather_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """As ``gather_with_grad`` where the numbers of rows (n, ...) of the processes may differ.

    Returns:
        The rows of all processes in order of rank, and the place of the first own row among them.
    """
    if world_size() == 1:
        return tensor, 0
    counts = gather_with_grad(torch.tensor([len(tensor)], device=tensor.device)).tolist()
    most = max(counts)
    if most == 0:
        return tensor, 0
    padding = tensor.new_zeros(most - len(tensor), *tensor.shape[1:])
    rows = gather_with_grad(torch.cat([tensor, padding])).unflatten(0, (len(counts), most))
    found = torch.cat([own[:count] for own, count in zip(rows, counts, strict=True)])
    return found, sum(counts[: rank()])


def start_shift(tensor: Tensor) -> Callable[[], Tensor]:
    """Start sending a tensor to the next process and receiving that of the previous one, in a ring.

    Shapes and types must be equal in all processes.

    Returns:
        A function that waits for the received tensor and returns it.
    """
    sent, received = tensor.contiguous(), torch.empty_like(tensor, memory_format=torch.contiguous_format)
    following, previous = (rank() + 1) % world_size(), (rank() - 1) % world_size()
    requests = dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, sent, following), dist.P2POp(dist.irecv, received, previous)]
    )

    def wait() -> Tensor:
        for request in requests:
            request.wait()
        return received

    return wait


def all_gather_object(item: Item) -> list[Item]:
    """Gather one picklable object from each process, in order of rank."""
    if world_size() == 1:
        return [item]
    items: list = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def mean_over_processes(values: Mapping[str, float], count: int) -> tuple[dict[str, float], int]:
    """The mean of each value over the processes that have it, and the sum of the counts.

    Called by all processes; one exchange.
    """
    everyone = all_gather_object((dict(values), count))
    if len(everyone) == 1:
        return dict(values), count
    names = dict.fromkeys(name for own, _ in everyone for name in own)
    columns = {name: [own[name] for own, _ in everyone if name in own] for name in names}
    return {name: sum(column) / len(column) for name, column in columns.items()}, sum(n for _, n in everyone)


class _Gather(torch.autograd.Function):
    """Differentiable all-gather; torch's own changes its name between releases."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(
            memory_format=torch.contiguous_format
        )  # gradients of all processes for all rows
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]
