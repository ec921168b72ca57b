"""The cosine of a CLIP as score of image-text pairs, for ``clipdense filter --by clip``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from clipdense.clip.class_embeddings import module_digest
from clipdense.clip.model import CLIP
from clipdense.data.image_text.filters import PairScore
from clipdense.layers.precision import at_least_fp32
from clipdense.utils.errors import InputError


class ClipScorer:
    """The cosine of an image and each of its captions.

    Args:
        clip: the model.
    """

    min_score = None
    max_score = 1.0

    def __init__(self, clip: CLIP) -> None:
        self.clip, self.digest = clip.eval(), module_digest(clip)

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Image.Image], captions: Sequence[Sequence[str]]
    ) -> list[list[PairScore]]:
        """The scores of each image, -1 to 1."""
        device = next(self.clip.parameters()).device
        pixels = torch.stack([self.clip.preprocess(image) for image in images]).to(device)
        flat = [caption for some in captions for caption in some]
        tokens = torch.as_tensor(self.clip.tokenizer(flat)).to(device)
        seen = at_least_fp32(self.clip.encode_image(pixels, normalize=True))  # (B, D)
        read = at_least_fp32(self.clip.encode_text(tokens, normalize=True)).split([len(s) for s in captions])
        pairs = zip(seen, read, strict=True)
        return [[PairScore(score) for score in (texts @ image).tolist()] for image, texts in pairs]


def clip_scorer(model: Any) -> ClipScorer:
    """The scorer of a model.

    Raises:
        InputError: not a CLIP.
    """
    if not isinstance(model, CLIP):
        raise InputError(f'--by clip needs the weights of a CLIP, got {type(model).__name__}')
    return ClipScorer(model)
