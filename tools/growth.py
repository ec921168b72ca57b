"""What a training step costs as it grows: ``python tools/growth.py batch|processes``.

Prints one JSON object a line.

* ``batch``: seconds and peak memory of a step of 64 to 4,096 pairs through cached accumulation, one process.
* ``processes``: seconds, memory and bytes sent in 1, 2 and 4 processes on this machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import get_context

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.engine import DecayGroupsConstructor, DistributedModel, Parallel
from clipdense.engine.sharding import is_sharded
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer

SMALL = ClipSize(  # 0.9 million parameters
    VitSize(image_size=32, patch_size=8, width=96, layers=3, num_heads=3, mlp_width=384, embed_dim=64),
    TextSize(96, 3, 3, 384, 64, vocab_size=2000, context_length=16),
)
MICRO_BATCH = 64


def parameters(module: nn.Module) -> int:
    """Their number."""
    return sum(parameter.numel() for parameter in module.parameters())


def batch() -> Iterator[dict[str, Any]]:
    """One process, each size in a new one."""
    for size in (64, 256, 1024, 4096):
        yield {'batch': size, 'micro_batch': MICRO_BATCH, **run(1, size, Parallel())[0]}


def processes() -> Iterator[dict[str, Any]]:
    """The same batch of all processes together."""
    for count, kind in ((1, 'ddp'), (2, 'ddp'), (4, 'ddp'), (2, 'fsdp'), (4, 'fsdp')):
        found = run(count, 256 // count, Parallel(type=kind))
        sent = sum(expected_bytes(count, kind)) * count
        yield {'processes': count, 'type': kind, **found[0], 'MB a step by the formula': round(sent / 1e6, 2)}


def expected_bytes(count: int, kind: str, pairs: int = 256) -> tuple[float, float]:
    """What a process sends for the weights and for the softmax loss in a step without micro-batches."""
    weights, share = 4 * parameters(build_clip(SMALL)), (count - 1) / count
    embeddings = 4 * pairs * SMALL.image.embed_dim  # of one tower, in all processes
    loss = 2 * (share * embeddings + 2 * share * embeddings)  # gathered, and summed in the backward pass
    return (2 if kind == 'ddp' else 3) * share * weights, loss


def run(count: int, size: int, settings: Parallel) -> list[dict[str, Any]]:
    """Steps in new processes of one thread."""
    context = get_context('fork')  # starting anew takes longer than the steps
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (count, size, settings, str(Path(folder) / 'store'), queue)
        workers = [context.Process(target=_steps, args=(rank, *arguments)) for rank in range(count)]
        for worker in workers:
            worker.start()
        found = [queue.get(timeout=900) for _ in workers]
        for worker in workers:
            worker.join()
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def _steps(rank: int, count: int, size: int, settings: Parallel, store: str, queue: Any) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if count > 1:
        dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=count)
    model = ContrastivePretrainer(build_clip(SMALL), micro_batch=MICRO_BATCH if count == 1 else None).train()
    wrapped = DistributedModel(model, settings)
    optimizer = {'type': torch.optim.AdamW, 'lr': 1e-4}
    optim_wrapper = DecayGroupsConstructor({'optimizer': optimizer, 'precision': 'fp32'})(wrapped)
    ids = torch.randint(1, 1990, (size, 16))
    ids[:, -1] = 1999
    data = {'images': torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8), 'token_ids': ids}
    wrapped.train_step(data, optim_wrapper)
    seconds, before = [], loopback_bytes()
    steps = 4 if size <= 256 else 1
    for _ in range(steps):
        start = time.perf_counter()
        wrapped.train_step(data, optim_wrapper)
        seconds.append(time.perf_counter() - start)
    if count > 1:
        dist.barrier()
    sent = (loopback_bytes() - before) / steps
    queue.put(
        (
            rank,
            {
                'seconds': round(median(seconds), 3),
                'pairs/s': round(size * count / median(seconds), 1),
                'peak memory, GB': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
                'weights and optimizer, MB': round(3 * local_bytes(model) / 1e6, 2),
                'MB a step on the loopback': round(sent / 1e6, 2) if count > 1 else 0.0,
            },
        )
    )
    if count > 1:
        dist.destroy_process_group()


def local_bytes(model: nn.Module) -> int:
    """Bytes of the parameters that are in this process."""
    parts = [p.to_local() if is_sharded(p) else p for p in model.parameters()]  # type: ignore[attr-defined]
    return sum(part.numel() * part.element_size() for part in parts)


def loopback_bytes() -> int:
    """Received so far by the network interface of the machine itself (Linux)."""
    path = Path('/proc/net/dev')
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [line.split(':')[1].split()[0] for line in lines if line.strip().startswith('lo:')]
    return int(found[0]) if found else 0


KINDS = {'batch': batch, 'processes': processes}


def main() -> None:
    """Print one kind of measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('kind', choices=KINDS)
    for found in KINDS[parser.parse_args().kind]():
        print(json.dumps(found), flush=True)


if __name__ == '__main__':
    main()
