"""Tip-Adapter on pixels: chunks of affinities summed by class, against all affinities and one-hot values."""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.methods.adapters.affinity import class_affinity

from .harness import Found, Options, Row, interleave
from .vocabulary_memory import memory_of

KEYS, PIXELS, CLASSES, DIM = 2400, 4096, 150, 512
ALPHA, BETA = 1.0, 5.5


@torch.no_grad()
def pixel_cache(options: Options) -> Found:
    """2,400 keys of 150 classes, 4,096 pixels of dimension 512: a cache in bounded memory."""
    torch.manual_seed(0)
    device = options.device
    keys = F.normalize(torch.randn(KEYS, DIM), dim=1).to(device)
    pixels = F.normalize(torch.randn(PIXELS, DIM), dim=1).to(device)
    labels = (torch.arange(KEYS) % CLASSES).to(device)
    weights, values = torch.full((KEYS,), ALPHA, device=device), F.one_hot(labels, CLASSES).float()

    def ours() -> Tensor:
        return class_affinity(pixels, keys, labels, weights, BETA, CLASSES)

    def peer() -> Tensor:
        affinity = pixels @ keys.mT  # (n, N)
        return ((-1) * (BETA - BETA * affinity)).exp() @ values * ALPHA

    difference = float((ours() - peer()).abs().max())
    if difference > 1e-4:
        raise SystemExit(f'the two ways differ by {difference}')
    memory = [memory_of(run, device) / 2**20 for run in (ours, peer)]
    times = interleave(ours, peer, options)
    wall, cpu = ([median(getattr(one, clock)) for one in times] for clock in ('wall', 'cpu'))
    rows = [Row('time', *wall, 's'), Row('CPU time', *cpu, 'CPU-s'), Row('peak memory', *memory, 'MiB')]
    return rows, {'keys': KEYS, 'pixels': PIXELS, 'classes': CLASSES, 'largest difference': difference}
