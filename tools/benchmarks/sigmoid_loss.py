"""The sigmoid loss with its gradient: chunks of logits against all logits at once."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.losses import sigmoid_loss as ours_loss

from .harness import Found, Options, Row, interleave
from .vocabulary_memory import memory_of

PAIRS, DIM, CHUNK = 8192, 512, 1024


def sigmoid_loss(options: Options) -> Found:
    """8,192 pairs of dimension 512 in one process, forward and backward, against open_clip's loss."""
    from open_clip.loss import SigLipLoss

    torch.manual_seed(0)
    images, texts = (
        F.normalize(torch.randn(PAIRS, DIM), dim=1).to(options.device).requires_grad_() for _ in range(2)
    )
    scale, bias = (torch.tensor(value, device=options.device, requires_grad=True) for value in (10.0, -10.0))
    official = SigLipLoss()

    def step(loss: Callable[[], Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(loss(), (images, texts, scale, bias)))

    def ours() -> list[Tensor]:
        return step(lambda: ours_loss(images, texts, scale, bias, CHUNK))

    def peer() -> list[Tensor]:
        return step(lambda: official(images, texts, scale, bias))

    difference = max(float((a - b).abs().max()) for a, b in zip(ours(), peer(), strict=True))
    if difference > 1e-4:
        raise SystemExit(f'the two losses differ by {difference}')
    memory = [memory_of(run, options.device) / 2**20 for run in (ours, peer)]
    times = interleave(ours, peer, options)
    wall, cpu = ([median(getattr(one, clock)) for one in times] for clock in ('wall', 'cpu'))
    rows = [Row('time', *wall, 's'), Row('CPU time', *cpu, 'CPU-s'), Row('peak memory', *memory, 'MiB')]
    return rows, {'pairs': PAIRS, 'dim': DIM, 'chunk': CHUNK, 'largest difference': difference}
