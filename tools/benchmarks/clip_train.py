"""Training steps: forward, loss, backward, optimizer.  Both programs as their users run them."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from clipdense.clip.model import CLIP
from clipdense.engine.optimizer import DecayGroupsConstructor, PrecisionOptimWrapper
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer

from .clip_pair import captions, check_equal, clip_pair, make_images, token_ids
from .harness import Found, Options, interleave, machine, matrix_rate, rate_rows, steady_clock

ADAMW = {
    'lr': 1e-5,
    'betas': (0.9, 0.98),
    'eps': 1e-6,
    'weight_decay': 0.2,
}  # a small rate: weights stay alike


def clip_train(options: Options) -> Found:
    """A training step, optimizer included; captions of 10 to 20 words, images a second."""
    ours, peer = clip_pair(options)
    images = make_images(options, ours.image.size.image_size)
    ids = token_ids(captions(options.batch), options)
    our_step, peer_step = our_training(ours, images, ids, options), peer_training(peer, images, ids, options)

    with FlopCounterMode(display=False) as counter:
        first = our_step()
    tolerance = 0.1 if options.dtype == 'bf16' else 1e-3
    difference = check_equal('losses of the first step', first, peer_step(), tolerance)
    times = interleave(our_step, peer_step, options, warm_up=1)

    rate = matrix_rate(options)
    reached = counter.get_total_flops() / median(getattr(times[0], steady_clock(options.device)))
    notes: dict[str, Any] = {
        'seconds a step': [round(median(side.wall), 4) for side in times],
        'difference of the first loss': difference,
        'matrix rate': f'{rate / 1e12:.3g} TFLOP/s measured',
        'share of it that ours reaches': round(reached / rate, 3),
    }
    if options.dtype == 'bf16' and not machine(options)['native_bf16']:
        notes['bf16'] = 'this processor has no bf16 units and emulates them: slower than fp32'
    return rate_rows('images', options.batch, 'img', times, options.device), notes


def our_training(clip: CLIP, images: Tensor, ids: Tensor, options: Options) -> Callable[[], Tensor]:
    """The step that ``clipdense train`` takes, from uint8 images on."""
    model = ContrastivePretrainer(clip).train().to(options.device)
    wrapper = {
        'type': PrecisionOptimWrapper,
        'precision': options.dtype,
        'optimizer': {'type': torch.optim.AdamW, **ADAMW},
    }
    optim_wrapper = DecayGroupsConstructor(wrapper, {'rule': 'open_clip 3.3.0'})(model)
    return lambda: model.train_step({'images': images, 'token_ids': ids}, optim_wrapper)['loss']


def peer_training(
    model: Any, images: Tensor, ids: Tensor, options: Options, process: int = 0, processes: int = 1
) -> Callable[[], Tensor]:
    """The step of open_clip_train 3.3.0 ``train_one_epoch``, with the optimizer of its ``main``."""
    from open_clip import ClipLoss
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip_train.precision import get_autocast

    mean, std = (
        torch.tensor(v, device=images.device).view(3, 1, 1) for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    )
    images = (images / 255 - mean) / std  # its data loader has done this
    optimizer = torch.optim.AdamW(_peer_groups(model), **{**ADAMW, 'weight_decay': 0.0})
    autocast = get_autocast('amp_bf16' if options.dtype == 'bf16' else 'fp32', options.device.split(':')[0])
    several = processes > 1
    loss = ClipLoss(
        local_loss=several,
        gather_with_grad=several,
        cache_labels=True,
        rank=process,
        world_size=processes,
    )
    scale = getattr(model, 'module', model).logit_scale
    model.train()

    def step() -> Tensor:
        optimizer.zero_grad()
        with autocast():
            losses = loss(**model(images, ids), output_dict=True)
            total = sum(losses.values())
        total.backward()
        optimizer.step()
        with torch.no_grad():
            scale.clamp_(0, log(100))
        return total.detach()

    return step


def _peer_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Its two groups: gains, biases and the scale are not decayed."""
    groups: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or any(part in name for part in ('bn', 'ln', 'bias', 'logit_scale'))
        groups[plain].append(parameter)
    return [
        {'params': groups[1], 'weight_decay': 0.0},
        {'params': groups[0], 'weight_decay': ADAMW['weight_decay']},
    ]
