"""Embedding images and texts: forward passes without gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clipdense.vocab.class_names import CLASS_NAMES
from clipdense.vocab.templates import TEMPLATES, fill

from .clip_pair import captions, check_equal, clip_pair, make_images, token_ids
from .harness import Found, Options, Row, Times, interleave, rate_rows


def clip_image(options: Options) -> Found:
    """Image tower, forward, images a second."""
    ours, peer = (model.eval() for model in clip_pair(options))
    images = make_images(options, ours.image.size.image_size).float() / 255
    rows, difference = _compare('images', 'img', ours.encode_image, peer.encode_image, images, options)
    return rows, {'largest difference': difference}


def clip_text(options: Options) -> Found:
    """Text tower, forward, texts a second: captions of 10 to 20 words, and zero-shot prompts."""
    ours, peer = (model.eval() for model in clip_pair(options))
    rows, notes = [], {}
    for label, texts in (('captions', captions(options.batch)), ('prompts', prompts(options.batch))):
        ids = token_ids(texts, options)
        found, difference = _compare(label, 'text', ours.encode_text, peer.encode_text, ids, options)
        rows += found
        notes[label] = {
            'largest difference': difference,
            'mean tokens': float((ids.argmax(dim=-1) + 1).float().mean()),
        }
    return rows, notes


def prompts(count: int) -> list[str]:
    """Class names in templates, as they are asked for in zero-shot classification."""
    templates, names = TEMPLATES['imagenet'].formats, CLASS_NAMES['coco']
    return [fill(templates[i % len(templates)], names[i % len(names)]) for i in range(count)]


def _compare(
    label: str,
    unit: str,
    ours: Callable[[Tensor], Tensor],
    peer: Callable[[Tensor], Tensor],
    inputs: Tensor,
    options: Options,
) -> tuple[Sequence[Row], float]:
    autocast = torch.autocast(options.device.split(':')[0], torch.bfloat16, enabled=options.dtype == 'bf16')
    with torch.no_grad(), autocast:
        difference = check_equal(label, ours(inputs), peer(inputs), 0.1 if options.dtype == 'bf16' else 1e-4)
        times: tuple[Times, Times] = interleave(lambda: ours(inputs), lambda: peer(inputs), options)
    return rate_rows(label, len(inputs), unit, times, options.device), difference
