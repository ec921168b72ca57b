"""Text towers for longer texts than they were trained with.  L: tokens, C: width."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError

from .checkpoint.loading import load
from .model import CLIP
from .text import TextTransformer
from .tokenizers import OpenAITokenizer


@MODELS.register_module()
def stretch_context(clip: CLIP | str | Path, length: int = 248, keep: int = 20) -> CLIP:
    """A CLIP whose text tower takes longer texts, to be trained further with long captions.

    The first position embeddings are kept, since most captions that CLIP was trained with end there; the
    others are stretched.  All other weights stay as they are.

    Args:
        clip: a CLIP with OpenAI's tokenizer, or its weights as ``clipdense.load`` takes them; not changed.
        length: number of tokens that the new tower takes.
        keep: number of the first positions that are not stretched.

    Raises:
        InputError: another text tower or tokenizer, a length that is not larger, or no position to stretch.

    Source: Long-CLIP (arXiv 2403.15378), section 3.1, "knowledge-preserved stretching"; it has 20 and 248.
    """
    clip = load(clip) if isinstance(clip, str | Path) else clip
    text = clip.text
    if not isinstance(text, TextTransformer) or not isinstance(clip.tokenizer, OpenAITokenizer):
        raise InputError(
            'longer texts need the text transformer and the tokenizer of OpenAI, not a '
            f'{type(text).__name__} with a {type(clip.tokenizer).__name__}'
        )
    old = text.size.context_length
    if length <= old:
        raise InputError(
            f'length must be more than the {old} tokens that the text tower takes, got {length!r}'
        )
    if not 0 <= keep < old:
        raise InputError(f'keep must be in 0 .. {old - 1}, got {keep!r}')
    with text.pos_embed.device:
        longer = TextTransformer(replace(text.size, context_length=length)).to(text.pos_embed.dtype)
    positions = stretch_positions(text.pos_embed.detach(), length, keep, int(text.class_token is not None))
    longer.load_state_dict({**text.state_dict(), 'pos_embed': positions})
    result = CLIP(
        clip.image,
        longer.train(clip.training),
        logit_bias=None if clip.logit_bias is None else 0.0,
        preprocess=clip.preprocess,
        tokenizer=OpenAITokenizer(length),
    )
    result.logit_scale = nn.Parameter(clip.logit_scale.detach().clone())
    if clip.logit_bias is not None:
        result.logit_bias = nn.Parameter(clip.logit_bias.detach().clone())
    return result.train(clip.training)


def stretch_positions(positions: Tensor, length: int, keep: int = 20, last: int = 0) -> Tensor:
    """(L + last, C) position embeddings -> (length + last, C).

    Args:
        positions: (L + last, C).
        length: new L.
        keep: number of the first rows that stay as they are; the others are interpolated linearly.
        last: number of rows at the end that stay as they are (the class token of CoCa).
    """
    end = len(positions) - last
    middle = positions[keep:end].float().mT[None]  # (1, C, L - keep)
    stretched = F.interpolate(middle, length - keep, mode='linear', align_corners=False)[0].mT
    return torch.cat([positions[:keep], stretched.to(positions.dtype), positions[end:]])
