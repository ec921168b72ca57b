"""GroupViT beside transformers' GroupViTModel: the image tower, forward."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import Tensor

from clipdense.methods.groupvit.checkpoint import from_official
from clipdense.methods.groupvit.model import GroupVit

from .clip_pair import check_equal
from .harness import Found, Options, interleave, rate_rows, steady_clock

_OTHER_SIZES = {'448': (448, 448), '224 x 336': (224, 336)}  # which transformers refuses


def groupvit_image(options: Options) -> Found:
    """GroupViT's image tower, forward, images a second (peer: transformers)."""
    ours, peer = groupvit_pair(options)
    images = _images(options, (224, 224))
    autocast = torch.autocast(options.device.split(':')[0], torch.bfloat16, enabled=options.dtype == 'bf16')
    with torch.no_grad(), autocast:
        tolerance = 0.1 if options.dtype == 'bf16' else 1e-4
        theirs = peer.vision_model(images).pooler_output
        difference = check_equal('images', ours.image.pooled(images), theirs, tolerance)
        times = interleave(lambda: ours.image.pooled(images), lambda: peer.vision_model(images), options)
        rows = rate_rows('224', len(images), 'img', times, options.device)
        notes: dict[str, Any] = {'largest difference': difference}
        for label, size in _OTHER_SIZES.items():
            others = _images(options, size)
            alone, _ = interleave(lambda others=others: ours.image.pooled(others), lambda: None, options)
            seconds = median(getattr(alone, steady_clock(options.device)))
            unit = 'img/CPU-s' if options.device == 'cpu' else 'img/s'
            notes[f'{label}, ours alone'] = f'{len(others) / seconds:.3g} {unit}'
    return rows, notes


def groupvit_pair(options: Options) -> tuple[GroupVit, Any]:
    """Ours and transformers' GroupViT of the released size, with the same random weights."""
    from transformers import GroupViTConfig, GroupViTModel

    torch.manual_seed(0)
    peer = GroupViTModel(GroupViTConfig()).eval()
    return from_official(peer.state_dict()).to(options.device), peer.to(options.device)


def _images(options: Options, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(options.batch, 3, *size, generator=generator).to(options.device)
