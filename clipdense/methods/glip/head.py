"""The head: blocks of fusion, text layer and DyHead, then logits of tokens, boxes and centerness.

B: images, C: channels, T: tokens, D: text width, A: places of a level, (h, w): a level, R: texts.

Source: microsoft/GLIP modeling/rpn/vldyhead.py ``VLDyHead``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.attention import KeysValues
from clipdense.registry import MODELS

from .boxes import grid_anchors
from .dyhead import DyConv, init_normal
from .fusion import LIMIT, Fusion, Places
from .language import text_layer
from .sizes import HeadSize
from .structures import HeadOutput, ReadPlaces, TextFeatures

_PRIOR = 0.01  # first probability of a token


class GroundingBlock(nn.Module):
    """One block.

    Args:
        size: of the head; without ``fused`` the text passes through unchanged.
    """

    def __init__(self, size: HeadSize) -> None:
        super().__init__()
        self.fusion = self.language = None
        if size.fused:
            widths = size.channels, size.text_width, size.fusion_width, size.fusion_heads
            self.fusion = Fusion(*widths, layer_scale=1 / size.depth, dropout=size.dropout)
            self.language = text_layer(size)
        self.image = DyConv(size.channels, size.groups)

    def forward(self, levels: Sequence[Tensor], text: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, C, h, w) of each level, (B, T, D), (B, T) -> the same levels and text."""
        if self.fusion is not None and self.language is not None:
            places, text = self.fusion(_flat(levels), text, mask)  # (B, S, C), (B, T, D)
            levels = _unflat(places, levels)
            text = self.language(text, mask)  # (B, T, D)
        return self.image(levels), text

    def places(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], Places]:
        """Levels that read no text, before the last part of the block, and what texts read of them."""
        places, read = self._fusion.places(_flat(levels))
        return _unflat(places, levels), read

    def step(self, text: Tensor, places: Places, past: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """The next tokens of texts (R, T, D), causally -> (R, T, D), and a cache."""
        assert self.language is not None
        return self.language.step(self._fusion.read(text, places), past)

    @property
    def _fusion(self) -> Fusion:
        assert self.fusion is not None
        return self.fusion


@MODELS.register_module()
class GLIPHead(nn.Module):
    """Levels of an image and features of a text -> a logit for each place and token, boxes, centerness.

    Args:
        size: or a dict with the fields of ``HeadSize``.
    """

    def __init__(self, size: HeadSize | dict) -> None:
        super().__init__()
        self.size = size = HeadSize(**size) if isinstance(size, dict) else size
        self.blocks: Any = nn.ModuleList(GroundingBlock(size) for _ in range(size.depth))
        self.box, self.centerness = nn.Conv2d(size.channels, 4, 1), nn.Conv2d(size.channels, 1, 1)
        self.box_scales = nn.Parameter(torch.ones(len(size.strides)))
        self.words = nn.Linear(size.text_width, size.channels)
        self.log_scale = nn.Parameter(torch.full((1,), float(size.log_scale)))
        self.text_bias = nn.Parameter(torch.zeros(size.text_width))
        self.bias = nn.Parameter(torch.full((1,), -math.log((1 - _PRIOR) / _PRIOR)))
        for layer in (self.box, self.centerness):
            init_normal(layer)

    @property
    def config(self) -> dict[str, Any]:
        """Config that builds this module with new weights."""
        return {'type': type(self), 'size': asdict(self.size)}

    def forward(self, levels: Sequence[Tensor], text: TextFeatures) -> HeadOutput:
        """(B, C, h, w) of each level, finest first -> outputs of each level."""
        hidden = text.hidden  # (B, T, D)
        for block in self.blocks:
            levels, hidden = block(levels, hidden, text.mask)
        words = F.normalize(hidden if self.size.fused else text.embedded, dim=-1)  # (B, T, D)
        queries = self.words(words / 2) / self.log_scale.exp()  # (B, T, C)
        bias = (words @ self.text_bias + self.bias)[:, None]  # (B, 1, T)
        logits = [
            (level.flatten(2).mT @ queries.mT + bias).clamp(-LIMIT, LIMIT) for level in levels
        ]  # (B, A, T)
        deltas = [scale * self.box(level) for scale, level in zip(self.box_scales, levels, strict=True)]
        centerness = [self.centerness(level) for level in levels]
        return HeadOutput(logits, deltas, centerness, hidden, levels)

    def places(self, levels: Sequence[Tensor]) -> ReadPlaces:
        """What causal texts read of images (B, C, h, w) of each level, which read no text themselves."""
        found = []
        for number, block in enumerate(self.blocks):
            if number:
                levels = self.blocks[number - 1].image(levels)
            levels, read = block.places(levels)
            found.append(read)
        return ReadPlaces(found)

    def step(
        self, hidden: Tensor, places: ReadPlaces, past: Sequence[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """The next tokens of texts, each of which reads the images and the tokens before it.

        Args:
            hidden: (R, T, D) of the text tower; the texts of an image are consecutive.
            places: of B images; the head must be fused.
            past: the cache of the tokens before, of each block; None at the beginning.

        Returns:
            (R, T, D) after the blocks, and the cache with these tokens.
        """
        cache = []
        for number, (block, read) in enumerate(zip(self.blocks, places.blocks, strict=True)):
            hidden, now = block.step(hidden, read, None if past is None else past[number])
            cache.append(now)
        return hidden, cache

    def anchors(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """(A, 4) of each level."""
        sizes = [(int(level.shape[-2]), int(level.shape[-1])) for level in levels]
        return grid_anchors(sizes, self.size.strides, self.size.anchor_scale, levels[0].device)


def _flat(levels: Sequence[Tensor]) -> Tensor:
    """(B, C, h, w) of each level -> (B, S, C)."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).mT


def _unflat(places: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of ``_flat``."""
    counts = [level.shape[-2] * level.shape[-1] for level in like]
    parts = places.mT.split(counts, dim=2)
    return [part.unflatten(2, level.shape[-2:]) for part, level in zip(parts, like, strict=True)]
