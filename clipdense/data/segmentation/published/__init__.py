"""Published datasets of open-vocabulary segmentation: layouts, readers and label conversions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipdense.utils.lazy import lazy_names

if TYPE_CHECKING:
    from .reader import BenchmarkSegmentation, find_files, find_root
    from .table import BENCHMARKS, Benchmark, find_benchmark

_HOMES = {
    'BenchmarkSegmentation': 'clipdense.data.segmentation.published.reader',
    'find_files': 'clipdense.data.segmentation.published.reader',
    'find_root': 'clipdense.data.segmentation.published.reader',
    'BENCHMARKS': 'clipdense.data.segmentation.published.table',
    'Benchmark': 'clipdense.data.segmentation.published.table',
    'find_benchmark': 'clipdense.data.segmentation.published.table',
}

__all__ = [
    'BENCHMARKS',
    'Benchmark',
    'BenchmarkSegmentation',
    'find_benchmark',
    'find_files',
    'find_root',
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
