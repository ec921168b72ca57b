"""Differences between published towers other than their size; importing this does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TextFlavour:
    """Differences between published text transformers other than their size."""

    causal: bool
    pool: Literal['end_of_text', 'last', 'class_token']  # the last position; a learned token after the text
    proj: Literal['plain', 'bias', 'none']
    eps: float


TEXT_FLAVOURS = {
    'openai': TextFlavour(causal=True, pool='end_of_text', proj='plain', eps=1e-5),
    'mobileclip': TextFlavour(causal=False, pool='end_of_text', proj='plain', eps=1e-5),
    'clipa': TextFlavour(causal=False, pool='last', proj='plain', eps=1e-5),
    'siglip': TextFlavour(causal=False, pool='last', proj='bias', eps=1e-6),
    'siglip_plain': TextFlavour(causal=False, pool='last', proj='none', eps=1e-6),
    'coca': TextFlavour(causal=True, pool='class_token', proj='plain', eps=1e-5),
    'glip': TextFlavour(causal=False, pool='end_of_text', proj='none', eps=1e-12),
}
PAD = 0  # id that fills texts of CoCa


@dataclass(frozen=True)
class VitFlavour:
    """Differences between published image transformers other than their size.

    Args:
        class_token: whether the tokens begin with a class token.
        norm_pre: whether the tokens are normalized before the first block.
        patch_bias: of the patch embedding.
        eps: of the normalizations.
        pool: the class token; the mean of the patches, normalized (CLIPA); a learned query over the
            normalized tokens, with no projection after it (SigLIP); or a learned query whose output is
            normalized and projected (CoCa).
        pool_heads: attention heads of CoCa's pool.
    """

    class_token: bool
    norm_pre: bool
    patch_bias: bool
    eps: float
    pool: Literal['class_token', 'average', 'query', 'contrastive'] = 'class_token'
    pool_heads: int = 8


VIT_FLAVOURS = {
    'openai': VitFlavour(class_token=True, norm_pre=True, patch_bias=False, eps=1e-5),
    'slip': VitFlavour(class_token=True, norm_pre=False, patch_bias=True, eps=1e-6),
    'clipa': VitFlavour(class_token=True, norm_pre=False, patch_bias=False, eps=1e-5, pool='average'),
    'siglip': VitFlavour(class_token=False, norm_pre=False, patch_bias=True, eps=1e-6, pool='query'),
    'coca': VitFlavour(class_token=True, norm_pre=True, patch_bias=False, eps=1e-5, pool='contrastive'),
}
