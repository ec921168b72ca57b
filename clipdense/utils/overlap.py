"""Reading and writing beside the computation of a model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar('Item')
Done = TypeVar('Done')


def overlapped(work: Callable[[Item], Done], items: Iterable[Item], ahead: int = 1) -> Iterator[Done]:
    """``map(work, items)`` with ``work`` in one background thread, in order.

    Items are taken in the calling thread, ``ahead`` of them before the first result is returned.  So reading
    (``work`` reads while the caller computes) and writing (``items`` computes while ``work`` writes) overlap
    with the computation, and at most ``ahead + 1`` items are in memory.

    Raises:
        Exception: what ``work`` or ``items`` raises; work that was begun is completed first.
    """
    with ThreadPoolExecutor(1, thread_name_prefix='clipdense-overlap') as thread:
        begun: deque[Future[Done]] = deque()
        for item in items:
            begun.append(thread.submit(work, item))
            del item
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
