"""Processes that train together.  All of it also works in a single process without any set-up.

P: processes.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

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


def gather_with_grad(tensor: Tensor) -> Tensor:
    """(B, ...) of each process -> (P * B, ...) in order of rank; gradients flow back to every process.

    Each process must bring the same B.
    """
    if world_size() == 1:
        return tensor
    return torch.cat(all_gather(tensor.contiguous()))


def all_gather_object(item: Item) -> list[Item]:
    """One picklable object from each process, in order of rank."""
    if world_size() == 1:
        return [item]
    items: list = [None] * world_size()
    dist.all_gather_object(items, item)
    return items
