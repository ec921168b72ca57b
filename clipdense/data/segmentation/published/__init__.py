"""Published datasets of open-vocabulary segmentation: layouts, readers and label conversions."""

from .reader import BenchmarkSegmentation, find_files, find_root
from .table import BENCHMARKS, Benchmark, find_benchmark

__all__ = ['BENCHMARKS', 'Benchmark', 'BenchmarkSegmentation', 'find_benchmark', 'find_files', 'find_root']
