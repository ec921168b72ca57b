"""Segmentation by where an image matches the class names.

B: windows, (h, w): patch grid, W: width of image tokens, K: classes, L: tokens of a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clipdense.layers.precision import at_least_fp32
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .cam import LAYER, itm_cam
from .model import Blip
from .tower import image_tokens

PROMPT = 'a picture of a {}'
LOGIT_SCALE = 10.0
_PADDING = -1.0


class ClassTexts:
    """Class names as token ids, which the matching reads with the image: there is no joint space.

    Args:
        model: whose vocabulary is used.
        prompt: with ``{}`` for the name.

    Raises:
        InputError: a prompt without ``{}``.
    """

    uses_templates = False

    def __init__(self, model: Blip, prompt: str = PROMPT) -> None:
        if not isinstance(prompt, str) or prompt.count('{}') != 1:
            raise InputError(f"prompt must have '{{}}' once, for the class name, got {prompt!r:.80}")
        self.model, self.prompt = model, prompt

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """The ids of each query (Q, L), as numbers that fp32 holds exactly, filled with -1."""
        names = [name for name, _ in vocabulary.queries]
        ids, keep = self.model.tokenizer([self.prompt.replace('{}', name) for name in names], 'enc')
        queries = ids.float().masked_fill(keep == 0, _PADDING)
        classes = torch.tensor([index for _, index in vocabulary.queries])
        device = next(self.model.parameters()).device
        return ClassEmbeddings(queries.to(device), classes.to(device), len(vocabulary))


class ItmCam(SegmentationModel):
    """A BLIP as a segmenter without training: Grad-CAM of matching for each class name.

    The score of a class at a patch is the probability that the image matches the class name, times the map of
    ``itm_cam`` over its maximum in the window.

    Args:
        blip: with an encoder and a matching head.
        layer: see ``itm_cam``.
        prompt: see ``ClassTexts``.
        slide: resizing and windows; by default the whole image, with a short side of the image size.
        logit_scale: see ``SegmentationModel``.

    Raises:
        InputError: weights without an encoder or matching head, or a layer below 1.
    """

    method = 'itm_cam'

    def __init__(
        self,
        blip: Blip,
        layer: int = LAYER,
        prompt: str = PROMPT,
        slide: Slide | dict | None = None,
        logit_scale: float = LOGIT_SCALE,
    ) -> None:
        preprocess = blip.preprocess
        slide = Slide(short_side=preprocess.image_size) if slide is None else slide
        super().__init__(preprocess.mean, preprocess.std, slide, logit_scale)
        blip.need_itm_head()
        if isinstance(layer, bool) or not isinstance(layer, int) or layer < 1:
            raise InputError(f'layer must be a whole number of at least 1, got {layer!r}')
        self.blip, self.layer = blip, layer
        self.embedder = ClassTexts(blip, prompt)
        self.patch_size = getattr(blip.image, 'patch_size', 1)

    def encode_pixels(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> the token of the whole image (B, W), those of the patches (B, h, w, W)."""
        tokens, grid = image_tokens(self.blip.image, images)  # (B, S, W)
        return tokens[:, 0], tokens[:, 1:].unflatten(1, grid)

    def classify_pixels(self, features: Any, text: Tensor) -> Tensor:
        """Output of ``encode_pixels``, ids (K, L) of ``ClassTexts`` -> scores in [0, 1] (B, K, h, w)."""
        whole, patches = features
        tokens = torch.cat([whole[:, None], patches.flatten(1, 2)], dim=1)  # (B, S, W)
        keep = text != _PADDING
        ids = torch.where(keep, text, self.blip.text_size.ids.pad).long()
        maps, matches = itm_cam(self.blip, tokens, ids, keep.long(), self.layer)  # (B, K, N), (B, K)
        maps = at_least_fp32(maps)
        highest = maps.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
        scores = matches[..., None] * maps / highest  # (B, K, N)
        return scores.unflatten(2, patches.shape[1:3])


def build(model: Blip, name: str, options: Mapping[str, Any]) -> ItmCam:
    """The segmenter of a BLIP."""
    return ItmCam(model, **options)
