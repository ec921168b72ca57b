"""Datasets of open-vocabulary segmentation: what is where, how it is read, how labels are converted."""

from .reader import BenchmarkSegmentation, find_files, find_root
from .table import BENCHMARKS, Benchmark, find_benchmark

__all__ = ['BENCHMARKS', 'Benchmark', 'BenchmarkSegmentation', 'find_benchmark', 'find_files', 'find_root']
