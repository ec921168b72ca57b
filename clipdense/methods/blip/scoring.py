"""Scores of image-text pairs by a BLIP, for ``clipdense filter --by itm`` and ``itc``.

B: images, R: captions of all of them, S: image tokens, W: their width, L: tokens of a caption.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from clipdense.clip.class_embeddings import module_digest
from clipdense.data.image_text.filters import PairScore
from clipdense.layers.precision import at_least_fp32
from clipdense.utils.errors import InputError
from clipdense.utils.files import digest

from .model import Blip
from .tokenizer import clean_caption


class _Scorer:
    """Captions are cleaned as in training; those that are too long are truncated.

    Args:
        blip: the model.
        name: of the scorer.
    """

    first: Literal['cls', 'enc']

    def __init__(self, blip: Blip, name: str) -> None:
        self.blip = blip.eval()
        self.digest = digest(name, module_digest(blip))

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Image.Image], captions: Sequence[Sequence[str]]
    ) -> list[list[PairScore]]:
        """The scores of each image with each of its captions."""
        blip, counts = self.blip, [len(some) for some in captions]
        device = next(blip.parameters()).device
        pixels = torch.stack([blip.preprocess(image) for image in images]).to(device)
        flat = [clean_caption(caption) for some in captions for caption in some]
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*(was truncated|does not know)')
            ids, keep = (part.to(device) for part in blip.tokenizer(flat, self.first))  # (R, L)
        places = torch.arange(len(images), device=device)
        image_of = places.repeat_interleave(torch.tensor(counts, device=device))  # (R,)
        found = iter(self.scores(blip.encode_image(pixels), image_of, ids, keep))
        return [[next(found) for _ in range(count)] for count in counts]

    def scores(self, tokens: Tensor, image_of: Tensor, ids: Tensor, keep: Tensor) -> list[PairScore]:
        """Tokens (B, S, W), the image of each caption (R,), captions (R, L) -> R scores."""
        raise NotImplementedError


class ItmScorer(_Scorer):
    """The probability that image and caption match, with both logits; the more probable answer decides."""

    first = 'enc'
    min_score: float | None = 0.5
    max_score = 1.0

    def scores(self, tokens: Tensor, image_of: Tensor, ids: Tensor, keep: Tensor) -> list[PairScore]:
        """See ``_Scorer``."""
        context = self.blip.need_encoder().read(tokens).row(image_of)
        logits = at_least_fp32(self.blip.match(context, ids, keep))  # (R, 2)
        matches = logits.softmax(dim=1)[:, 1].tolist()
        return [PairScore(one, (no, yes)) for one, (no, yes) in zip(matches, logits.tolist(), strict=True)]


class ItcScorer(_Scorer):
    """The cosine of image and caption in the joint space."""

    first = 'cls'
    min_score: float | None = None
    max_score = 1.0

    def scores(self, tokens: Tensor, image_of: Tensor, ids: Tensor, keep: Tensor) -> list[PairScore]:
        """See ``_Scorer``."""
        image, text = self.blip.embed_image(tokens), self.blip.embed_text(ids, keep)
        return [PairScore(one) for one in at_least_fp32((image[image_of] * text).sum(dim=1)).tolist()]


def itm_scorer(model: Any) -> ItmScorer:
    """The scorer of matching.

    Raises:
        InputError: not a BLIP with a matching head.
    """
    blip = _blip(model, 'itm')
    blip.need_itm_head()
    return ItmScorer(blip, 'itm')


def itc_scorer(model: Any) -> ItcScorer:
    """The scorer of similarity.

    Raises:
        InputError: not a BLIP with a joint space.
    """
    blip = _blip(model, 'itc')
    blip.need_joint()
    return ItcScorer(blip, 'itc')


def _blip(model: Any, name: str) -> Blip:
    if not isinstance(model, Blip):
        raise InputError(f'--by {name} needs the weights of a BLIP, got {type(model).__name__}')
    return model
