"""Timing two programs in turn, and writing down what came out."""

from __future__ import annotations

import gc
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from clipdense.layers.precision import has_native_bf16


@dataclass(frozen=True)
class Options:
    """What the command line can say; a benchmark takes what concerns it."""

    model: str = 'ViT-B-32'
    batch: int = 32
    repeats: int = 5
    threads: int | None = None
    dtype: str = 'fp32'
    device: str = 'cpu'


@dataclass(frozen=True)
class Row:
    """One line of the table: our median and the peer's; less is better (seconds) unless said (a rate)."""

    label: str
    ours: float
    peer: float
    unit: str
    more_is_better: bool = False

    @property
    def ratio(self) -> float:
        """Above 1 where ours is ahead."""
        return self.ours / self.peer if self.more_is_better else self.peer / self.ours


Found = tuple[
    Sequence[Row], dict[str, Any]
]  # the rows, of which the first is the result, and remarks on them


@dataclass
class Times:
    """Seconds of each repetition: on the wall, and of all threads and children of this process."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def interleave(
    ours: Callable[[], Any], peer: Callable[[], Any], options: Options, warm_up: int = 1
) -> tuple[Times, Times]:
    """Time both in turn (A B A B ...), so that a busy neighbor slows both; warm-up turns do not count.

    Where neighbors are busy, compare CPU seconds at one thread: they leave out the time spent waiting.
    """
    times = Times(), Times()
    for turn in range(warm_up + options.repeats):
        for run, kept in zip((ours, peer), times, strict=True):
            gc.collect()
            synchronize(options.device)
            wall, cpu = time.perf_counter(), cpu_seconds()
            run()
            synchronize(options.device)
            if turn >= warm_up:
                kept.wall.append(time.perf_counter() - wall)
                kept.cpu.append(cpu_seconds() - cpu)
    return times


def cpu_seconds() -> float:
    """Used so far by all threads of this process and by its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def rate_rows(label: str, amount: float, unit: str, times: tuple[Times, Times], device: str) -> list[Row]:
    """Rows for ``amount`` units of work a turn: per second and, on a CPU, per second of CPU time."""
    ours, peer = times
    rows = [Row(label, amount / median(ours.wall), amount / median(peer.wall), f'{unit}/s', True)]
    if device == 'cpu':
        rates = amount / median(ours.cpu), amount / median(peer.cpu)
        rows.append(Row(f'{label}, CPU time', *rates, f'{unit}/CPU-s', True))
    return rows


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device.startswith('cuda'):
        torch.cuda.synchronize()


def set_threads(options: Options) -> None:
    """Torch's threads, where the options name a number."""
    if options.threads:
        torch.set_num_threads(options.threads)


def steady_clock(device: str) -> str:
    """The name of the clock in ``Times`` that neighbors disturb least."""
    return 'cpu' if device == 'cpu' else 'wall'


def matrix_rate(options: Options, side: int | None = None) -> float:
    """FLOP per second (CPU second on a CPU) of one large matrix product in the dtype of the options."""
    side = side or (1536 if options.device == 'cpu' else 8192)
    dtype = torch.bfloat16 if options.dtype == 'bf16' else torch.float32
    a, b = (torch.randn(side, side, dtype=dtype, device=options.device) for _ in range(2))
    product, _ = interleave(lambda: a @ b.mT, lambda: None, options, warm_up=2)
    return 2 * side**3 / min(getattr(product, steady_clock(options.device)))


def machine(options: Options) -> dict[str, Any]:
    """What the numbers were measured on."""
    facts = {
        'processor': processor(),
        'instructions': torch.backends.cpu.get_cpu_capability(),
        'native_bf16': has_native_bf16(options.device),
        'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
        'threads': torch.get_num_threads(),
        'load': round(os.getloadavg()[0], 1) if hasattr(os, 'getloadavg') else None,
        'python': platform.python_version(),
    }
    if options.device.startswith('cuda'):
        facts['gpu'] = torch.cuda.get_device_name()
    return facts | {name: installed(name) for name in ('torch', 'open_clip_torch')}


def neighbors(wait: float = 1.0) -> dict[str, str]:
    """A remark where other programs keep the cores busy, which can slow two threads to less than one."""
    all_before, idle_before = _ticks()
    time.sleep(wait)
    all_after, idle_after = _ticks()
    busy = 1 - (idle_after - idle_before) / max(all_after - all_before, 1)
    if busy < 0.1:
        return {}
    remark = 'of the cores before the run: trust CPU time at --threads 1, or run again when idle'
    return {'busy neighbors': f'{busy:.0%} {remark}'}


def _ticks() -> tuple[int, int]:
    """Of all cores since boot, and how many of them idle (Linux)."""
    stat = Path('/proc/stat')
    fields = [int(field) for field in stat.read_text().splitlines()[0].split()[1:9]] if stat.is_file() else []
    return (sum(fields), fields[3]) if fields else (0, 1)


def processor() -> str:
    """Its name, as the system has it."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text(errors='replace').splitlines() if cpuinfo.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def installed(name: str) -> str | None:
    """The version of a package, None where it is absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table(rows: Sequence[Row], notes: dict[str, Any]) -> str:
    """The rows for the eye, remarks below."""
    width = max(len(row.label) for row in rows)
    lines = [f'{"":{width}}  {"ours":>10}  {"peer":>10}  {"ratio":>6}  unit']
    lines += [
        f'{row.label:{width}}  {row.ours:10.4g}  {row.peer:10.4g}  {row.ratio:6.2f}  {row.unit}'
        for row in rows
    ]
    return '\n'.join(lines + [f'{name}: {value}' for name, value in notes.items()])


def record(name: str, rows: Sequence[Row], notes: dict[str, Any], options: Options) -> dict[str, Any]:
    """The JSON line: the first row, then everything that was found."""
    return {
        'name': name,
        **_numbers(rows[0]),
        'machine': machine(options),
        'date': datetime.now(timezone.utc).date().isoformat(),
        'options': asdict(options),
        'rows': [{'label': row.label, **_numbers(row)} for row in rows],
        'notes': notes,
    }


def _numbers(row: Row) -> dict[str, Any]:
    numbers = {'ours': row.ours, 'peer': row.peer, 'ratio': row.ratio}
    return {name: float(f'{value:.4g}') for name, value in numbers.items()} | {'unit': row.unit}
