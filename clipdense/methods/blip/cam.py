"""Where an image matches a text: Grad-CAM of the cross-attention for the matching score.

B: images, K: texts of each image, L: tokens, S: tokens of an image, N: patches, W and C: widths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipdense.utils.errors import InputError

from .model import Blip
from .text import Context, attention_mask

_TEXTS = 16  # whose attention is in memory together
LAYER = 8  # of 12, the first is 1


def itm_cam(
    model: Blip, tokens: Tensor, ids: Tensor, keep: Tensor, layer: int = LAYER
) -> tuple[Tensor, Tensor]:
    """Maps of texts in images, and whether they match.

    The attention of each word to each patch, in one layer, is weighted with the positive part of its gradient
    of the matching score; the map is the mean over attention heads and words.

    Args:
        model: with an encoder and a matching head, in evaluation mode.
        tokens: (B, S, W), of ``model.encode_image``.
        ids: (K, L), texts that start with ``enc``.
        keep: (K, L), 1 for tokens.
        layer: whose cross-attention is used, from 1; below the last, where words have no influence on the
            score.  The default is the last but one in a smaller model.

    Returns:
        (B, K, N) at least 0, and (B, K) probabilities of a match.

    Raises:
        InputError: weights without an encoder or matching head, or a layer that has no map.

    Source: Li et al., ALBEF (arXiv 2107.07651), section 6.3; LAVIS blip_image_text_matching.py.
    """
    encoder = model.need_encoder()
    model.need_itm_head()
    with torch.no_grad():
        context = encoder.read(tokens)
    place = _place(layer, len(encoder.layers))
    parts = [
        _maps(model, context, some, kept, place)
        for some, kept in zip(ids.split(_TEXTS), keep.split(_TEXTS), strict=True)
    ]
    maps, scores = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    return maps, scores


def _place(layer: int, depth: int) -> int:
    """Index of the layer.

    Raises:
        InputError: it is the last one, or there is none before it.
    """
    if depth < 2 or (layer >= depth and layer != LAYER):
        raise InputError(
            f'layer must be at least 1 and below {depth}, the last layer, where words have no influence on '
            f'the matching score; got {layer}'
        )
    return min(layer, depth - 1) - 1


def _maps(model: Blip, context: Context, ids: Tensor, keep: Tensor, place: int) -> tuple[Tensor, Tensor]:
    """The same for a few texts: (B, K, N), (B, K)."""
    encoder, images = model.need_encoder(), context.layers[0][0].shape[0]
    texts, length = ids.shape
    ids, keep = ids.repeat(images, 1), keep.repeat(images, 1)  # (B K, L), texts of an image are consecutive
    allowed = attention_mask(ids, keep, causal=False)
    layer, (key, value) = encoder.layers[place], context.layers[place]
    with torch.no_grad():
        x = encoder.run(encoder.embed(ids), allowed, context, stop=place)  # (B K, L, C)
        x = layer.self_attn(x, allowed)[0]
        attention = layer.cross.attention(x, key)  # (B, heads, K L, S)
    with torch.enable_grad():
        attention.requires_grad_()
        x = layer.feed(layer.cross.merge(x, attention @ value))  # (B K, L, C)
        x = encoder.run(x, allowed, context, start=place + 1)
        logits = model.need_itm_head()(x[:, 0])  # (B K, 2)
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), attention)
    weighted = (attention.detach() * gradient.clamp(min=0)).mean(dim=1)  # (B, K L, S)
    words = keep.clone()
    words[:, 0] = 0  # [ENC]
    words.scatter_(1, keep.sum(dim=1, keepdim=True) - 1, 0)  # the end
    words = words.view(images, texts, length, 1).to(weighted.dtype)
    maps = (weighted.view(images, texts, length, -1) * words).sum(dim=2) / words.sum(dim=2).clamp(min=1)
    matches = logits.detach().softmax(dim=-1)[:, 1].view(images, texts)
    return maps[..., 1:], matches
