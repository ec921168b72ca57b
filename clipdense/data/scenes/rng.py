"""Random numbers that depend on (seed, stream, index) alone, on any platform and in any order."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from ...utils.files import digest

Item = TypeVar('Item')
_BUFFER = 64


class RandomStream:
    """The random numbers of one image.

    Philox is counter-based: a generator for any index costs microseconds, and NumPy guarantees its raw
    stream not to change.  All numbers are derived from uniform ones, because NumPy does not guarantee
    that its integers, choices or permutations stay the same.
    """

    def __init__(self, seed: int, stream: str, index: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=[_stream_key(seed, stream), index]))
        self._buffer: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number in [low, high)."""
        if not self._buffer:
            self._buffer = self._generator.random(_BUFFER).tolist()
        return low + (high - low) * self._buffer.pop()

    def integer(self, count: int) -> int:
        """One integer in 0 ... count - 1."""
        return int(self.uniform() * count)

    def between(self, limits: tuple[int, int]) -> int:
        """One integer, both limits included."""
        return limits[0] + self.integer(limits[1] - limits[0] + 1)

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.integer(len(items))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """``count`` different items in random order; all of them where there are fewer."""
        pool = list(items)
        return [pool.pop(self.integer(len(pool))) for _ in range(min(count, len(pool)))]

    def noise(self, height: int, width: int) -> np.ndarray:
        """(height, width) float32 of integers from 0 to 255."""
        words = self._generator.bit_generator.random_raw((height * width + 7) // 8)
        octets = words.astype('<u8').view(np.uint8)
        return octets[: height * width].reshape(height, width).astype(np.float32)


@functools.lru_cache(maxsize=256)
def _stream_key(seed: int, stream: str) -> int:
    return int(digest(str(seed), stream)[:16], 16)
