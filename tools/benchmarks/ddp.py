"""Training steps of two processes: speed against one process, and the part of a step that is communication.

Each kind of run is two new processes of one thread.  What communication costs is the difference from the
same two processes without a process group, which compute on half of the batch and exchange nothing.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import get_context

from clipdense.engine import DistributedModel
from clipdense.engine.optimizer import DecayGroupsConstructor, PrecisionOptimWrapper
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer

from .clip_pair import captions, clip_pair, make_images, token_ids
from .clip_train import ADAMW, peer_training
from .harness import Found, Options, Row

PROCESSES = 2
ROUNDS = 2  # of new processes of each kind


def ddp(options: Options) -> Found:
    """Two processes of one thread against one at the same global batch (gloo), beside open_clip with DDP."""
    times: dict[tuple[str, str], list[float]] = {}
    memory: dict[tuple[str, str], float] = {}
    for _ in range(ROUNDS):
        for side in STEPS:
            for kind, processes, joined in (('one', 1, False), ('apart', 2, False), ('joined', 2, True)):
                seconds, peak = steps_of(side, processes, joined, options)
                times.setdefault((side, kind), []).extend(seconds)
                memory[side, kind] = peak
    best = {key: median(values) for key, values in times.items()}
    rates = {key: options.batch / value for key, value in best.items()}
    share = {side: 1 - best[side, 'apart'] / best[side, 'joined'] for side in STEPS}
    rows = [
        Row('two processes', rates['ours', 'joined'], rates['peer', 'joined'], 'img/s', True),
        Row('one process', rates['ours', 'one'], rates['peer', 'one'], 'img/s', True),
        Row('two without communication', rates['ours', 'apart'], rates['peer', 'apart'], 'img/s', True),
        Row('share of communication', 100 * share['ours'], 100 * share['peer'], '% of a step'),
    ]
    notes: dict[str, Any] = {
        f'{side}, two against one': round(rates[side, 'joined'] / rates[side, 'one'], 2) for side in STEPS
    }
    notes |= {f'{side}, memory of a process': f'{memory[side, "joined"]:.2f} GB' for side in STEPS}
    return rows, notes


def our_step(options: Options, process: int, joined: bool) -> Callable[[], Any]:
    """A step of ``clipdense train`` on the batch of one process."""
    clip, _ = clip_pair(options)
    model: Any = DistributedModel(ContrastivePretrainer(clip).train())
    wrapper = {
        'type': PrecisionOptimWrapper,
        'precision': options.dtype,
        'optimizer': {'type': torch.optim.AdamW, **ADAMW},
    }
    optim_wrapper = DecayGroupsConstructor(wrapper, {'rule': 'open_clip 3.3.0'})(model)
    images = make_images(options, clip.image.size.image_size)
    ids = token_ids(captions(options.batch), options)
    return lambda: model.train_step({'images': images, 'token_ids': ids}, optim_wrapper)


def peer_step(options: Options, process: int, joined: bool) -> Callable[[], Any]:
    """A step of open_clip_train with ``--local-loss --gather-with-grad``, in DDP as its ``main`` wraps it."""
    clip, peer = clip_pair(options)
    images = make_images(options, clip.image.size.image_size)
    ids = token_ids(captions(options.batch), options)
    del clip
    if joined:
        peer = torch.nn.parallel.DistributedDataParallel(peer)
    return peer_training(peer, images, ids, options, process, PROCESSES if joined else 1)


STEPS = {'ours': our_step, 'peer': peer_step}


def steps_of(side: str, processes: int, joined: bool, options: Options) -> tuple[list[float], float]:
    """Seconds of each step, by the slowest process, and the largest memory of a process in GB."""
    options = replace(options, batch=options.batch // processes)
    context = get_context('spawn')
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (side, processes, joined, options, str(Path(folder) / 'store'), queue)
        workers = [
            context.Process(target=_measure, args=(process, *arguments)) for process in range(processes)
        ]
        for worker in workers:
            worker.start()
        found = [queue.get(timeout=1800) for _ in workers]
        for worker in workers:
            worker.join()
    steps = zip(*(seconds for seconds, _ in found), strict=True)
    return [max(step) for step in steps], max(peak for _, peak in found)


def _measure(
    process: int, side: str, processes: int, joined: bool, options: Options, store: str, queue: Any
) -> None:
    torch.set_num_threads(1)
    if joined:
        dist.init_process_group('gloo', init_method=f'file://{store}', rank=process, world_size=processes)
    step = STEPS[side](options, process, joined)
    step()
    seconds = []
    for _ in range(options.repeats):
        if joined:
            dist.barrier()
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    queue.put((seconds, peak))
    if joined:
        dist.destroy_process_group()
