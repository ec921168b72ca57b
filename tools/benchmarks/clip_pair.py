"""One CLIP twice, ours and open_clip's, with the same random weights, and inputs for both."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipdense.clip.checkpoint.layouts import to_ours
from clipdense.clip.factory import published_size
from clipdense.clip.model import CLIP, build_clip
from clipdense.vocab.tokenizer import tokenize

from .harness import Options

WORDS = """
    a the two an old small red white young large wooden bright dog cat bicycle woman man child horse table
    train kitchen street beach mountain river bottle bench umbrella sandwich window standing leaning riding
    looking sitting walking playing holding near under behind against beside with in on at of and green field
    brick wall sunny day rain snow sunset station crowd market
"""


def clip_pair(options: Options, name: str | None = None) -> tuple[CLIP, Any]:
    """Our model and open_clip's, converted from it; random weights, training mode.

    Args:
        options: the device, and the model if there is no ``name``.
        name: an open_clip name.
    """
    import open_clip

    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # that it has no pretrained weights
    peer = open_clip.create_model(name or options.model, output_dict=True)
    logging.disable(logging.NOTSET)
    ours = build_clip(published_size(name or options.model))
    layout = {'vit': 'openclip_vit', 'resnet': 'openclip_resnet', 'timm': 'openclip_timm'}[ours.image.kind]
    ours.load_state_dict(to_ours(peer.state_dict(), layout)[0])
    return ours.to(options.device), peer.to(options.device)


def make_images(options: Options, side: int) -> Tensor:
    """(B, 3, side, side) uint8."""
    generator = torch.Generator().manual_seed(0)
    size = (options.batch, 3, side, side)
    return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8).to(options.device)


def captions(count: int) -> list[str]:
    """Captions of natural length: 10 to 20 words, evenly spread."""
    draw, words = random.Random(0), WORDS.split()
    return [' '.join(draw.choices(words, k=10 + index % 11)) for index in range(count)]


def token_ids(texts: Sequence[str], options: Options) -> Tensor:
    """(B, 77) on the device."""
    return tokenize(texts).to(options.device)


def check_equal(what: str, ours: Tensor, peer: Tensor, tolerance: float) -> float:
    """The largest difference; a benchmark of two programs that compute different things is worth nothing.

    Raises:
        SystemExit: the difference is above the tolerance, or not a number.
    """
    difference = float((ours.detach().float() - peer.detach().float()).abs().max())
    if not difference <= tolerance:
        raise SystemExit(f'{what} of ours and peer differ by {difference:.2g} (at most {tolerance:.2g})')
    return difference
