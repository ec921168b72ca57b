"""Captions by BLIP, beam search of a batch of images, beside transformers' BlipForConditionalGeneration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clipdense.methods.blip.checkpoint import from_official
from clipdense.methods.blip.model import Blip
from clipdense.methods.blip.sizes import BERT, PUBLISHED
from clipdense.tasks.captioning import CaptionRules
from clipdense.tasks.generation import generate

from .harness import Found, Options, Row, installed, interleave, rate_rows
from .vocabulary_memory import memory_of

SIZE = PUBLISHED['BLIP-B-caption']
PROMPT = (BERT.dec, 1037, 3861, 1997)  # [DEC] a picture of
RULES = CaptionRules('beam', beams=3, max_length=20, min_length=5)


@torch.no_grad()
def blip_caption(options: Options) -> Found:
    """BLIP-B at 384 pixels: captions of a batch, 3 beams, 20 tokens (peer: transformers).

    The calls that compare captions and measure memory are the warm-up.
    """
    options = within_minutes(options)
    ours, peer = blip_pair(options)
    side = SIZE.image.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options.batch, 3, side, side, generator=generator).to(options.device)
    rest = torch.tensor([PROMPT] * options.batch, device=options.device)  # (B, L)

    def image_tower() -> Tensor:
        return ours.encode_image(images)

    def own() -> Tensor:
        assert ours.decoder is not None
        return generate(ours.decoder, ours.decoder.read(ours.encode_image(images)), rest, RULES).ids

    def theirs() -> Tensor:
        ended = torch.cat([rest, rest.new_full((len(rest), 1), BERT.sep)], dim=1)  # it removes the last id
        return peer.generate(
            images, ended, num_beams=RULES.beams, max_length=RULES.longest, min_length=RULES.shortest
        )

    found: list[Tensor] = []
    memory = [memory_of(lambda run=run: found.append(run()), options.device) / 2**20 for run in (own, theirs)]
    if not torch.equal(*found):
        raise SystemExit(f'the two sides write different captions: {found[0].tolist()}, {found[1].tolist()}')
    times = interleave(own, theirs, options, warm_up=0)
    rows = rate_rows('captions', options.batch, 'img', times, options.device)
    towers = interleave(image_tower, lambda: peer.vision_model(images), options, warm_up=0)
    rows += rate_rows('image tower alone', options.batch, 'img', towers, options.device)
    rows.append(Row('peak memory above the weights', *memory, 'MiB'))
    notes = {'transformers': installed('transformers'), 'images': options.batch, 'repeats': options.repeats}
    return rows, {**notes, 'pixels': side, 'tokens': found[0].shape[1], 'captions': 'identical'}


def within_minutes(options: Options) -> Options:
    """Two images and three repeats on a CPU, where the defaults (32 and 5) take half an hour of one core."""
    if options.device != 'cpu':
        return options
    batch = 2 if options.batch == Options.batch else options.batch
    return replace(options, batch=batch, repeats=min(options.repeats, 3))


def blip_pair(options: Options) -> tuple[Blip, Any]:
    """Ours and transformers' captioning model of the released size, with the same random weights."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    vision, text = SIZE.image, SIZE.text
    config = BlipConfig(
        vision_config={'image_size': vision.image_size, 'layer_norm_eps': SIZE.image_eps},
        text_config={
            'vocab_size': text.vocab_size,
            'num_attention_heads': text.num_heads,
            'bos_token_id': BERT.dec,
            'sep_token_id': BERT.sep,
            'eos_token_id': BERT.sep,
        },
    )
    torch.manual_seed(0)
    peer = BlipForConditionalGeneration(config).eval()
    for parameter in peer.vision_model.parameters():
        if parameter.ndim > 1:  # 1e-10 by default, which makes all images equal
            torch.nn.init.normal_(parameter, std=0.02)
    ours = from_official(peer.state_dict(), image_eps=SIZE.image_eps)
    return ours.to(options.device), peer.to(options.device)
