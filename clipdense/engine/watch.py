"""What is measured of training steps: throughput, waiting for data, memory, utilization."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from clipdense.utils.dist import world_size

# Dense bf16 (fp16 before Ampere) FLOP per second by NVIDIA's data sheets; the longest name that fits counts.
PEAK_FLOPS = {
    'B200': 2250e12,
    'H200': 989e12,
    'H100': 989e12,
    'H100 PCIe': 756e12,
    'H100 NVL': 835e12,
    'A100': 312e12,
    'A40': 149.7e12,
    'A10': 125e12,
    'A10G': 70e12,
    'L40S': 362e12,
    'L4': 121e12,
    'V100': 125e12,
    'T4': 65e12,
    'RTX A6000': 154.8e12,
    'RTX 4090': 165.2e12,
    'RTX 3090': 71e12,
}
_SEEN = 'samples_seen'  # in MMEngine's message hub, whose scalars are part of checkpoints
_COUNTED = ('sources/epoch', 'sources/batch')  # up to which the samples of each source have been counted


def gpu_name() -> str:
    """Of the GPU that this process uses; '' without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ''


def peak_flops(device: str) -> float | None:
    """FLOP per second of a GPU by its name; None if it is not in the table."""
    found = [name for name in PEAK_FLOPS if f' {name} ' in f' {device.replace("-", " ")} ']
    return PEAK_FLOPS[max(found, key=len)] if found else None


class Watch:
    """Measures training steps between two lines of the log.

    ``values`` has, beside the throughput of each process: ``data_wait``, the share of the time in which the
    loop waits for a batch; ``memory_gb``; ``samples_seen`` by all processes, also before resuming, and
    ``seen/NAME`` those of them that were drawn from each source of a mixture; and, on GPUs of ``PEAK_FLOPS``,
    ``flops_utilization``: FLOPs of the steps, counted in the first one, of the peak.
    """

    def __init__(self, runner: Any) -> None:
        known = runner.message_hub.log_scalars.get(_SEEN)
        self._seen = int(known.current()) if known is not None else 0
        self._waited = _waited(runner)
        self._sources = _Sources(runner)
        self._peak = peak_flops(gpu_name())
        self._flops: float | None = None
        self._counter: FlopCounterMode | None = None

    def begin_step(self) -> None:
        """Called before a step."""
        if self._peak and self._flops is None:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def end_step(self, runner: Any, images: int) -> None:
        """Called after a step with so many images in this process."""
        if self._counter is not None:  # of the first step
            self._counter.__exit__(None, None, None)
            self._flops = self._counter.get_total_flops() / max(images, 1)
            self._counter = None
        self._seen += images * world_size()
        runner.message_hub.update_scalar(_SEEN, self._seen)

    def values(self, runner: Any, images_per_second: float, seconds: float) -> dict[str, float]:
        """Values of the steps since the last call.

        Args:
            runner: the runner.
            images_per_second: of all processes.
            seconds: since the last call.
        """
        each, waited = images_per_second / world_size(), _waited(runner)
        found = {'images_per_second_per_process': each, 'memory_gb': memory() / 1e9, _SEEN: float(self._seen)}
        if waited is not None:
            found['data_wait'] = min((waited - (self._waited or 0.0)) / max(seconds, 1e-9), 1.0)
        if self._peak and self._flops:
            found['flops_utilization'] = each * self._flops / self._peak
        self._waited = waited
        return found | self._sources.count(runner)


class _Sources:
    """Counts the samples drawn from each source of a mixture; earlier counts come with the checkpoint."""

    def __init__(self, runner: Any) -> None:
        data = runner.train_dataloader.dataset
        self._data = data if getattr(data, 'mixture', '') and hasattr(runner.train_loop, 'position') else None
        known = [runner.message_hub.log_scalars.get(name) for name in _COUNTED]
        self._at = self._place(runner) if self._data is not None else (0, 0)
        if all(known):  # the line before the checkpoint
            self._at = min(self._at, (int(known[0].current()), int(known[1].current())))

    def count(self, runner: Any) -> dict[str, float]:
        """Samples of each source so far."""
        if self._data is None:
            return {}
        (epoch, batch), now = self._at, self._place(runner)
        found: dict[str, float] = {}
        while (epoch, batch) != now:
            last = now[1] if epoch == now[0] else self._data.batches_per_epoch
            new = self._data.drawn(epoch, batch, last, runner.train_dataloader.num_workers)
            found = {name: found.get(name, 0) + count for name, count in new.items()}
            epoch, batch = (epoch, last) if epoch == now[0] else (epoch + 1, 0)
        self._at = now
        for name, value in zip(_COUNTED, now, strict=True):
            runner.message_hub.update_scalar(name, value)
        total = {}
        for name, count in found.items():
            key = f'seen/{name}'
            known = runner.message_hub.log_scalars.get(key)
            total[key] = count + (known.current() if known is not None else 0.0)
            runner.message_hub.update_scalar(key, total[key])
        return total

    @staticmethod
    def _place(runner: Any) -> tuple[int, int]:
        position = runner.train_loop.position
        return position.epoch, position.batches


def memory() -> int:
    """Largest number of bytes so far: of the GPU that this process uses, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def _waited(runner: Any) -> float | None:
    """Seconds that the training loop has waited for batches; None for a loop that does not measure it."""
    return getattr(runner.train_loop, 'waited', None)
