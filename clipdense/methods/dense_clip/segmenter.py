"""A segmenter out of any CLIP, without training.

B: windows, (h, w): patch grid, D: joint space, K: classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.checkpoint import load
from clipdense.clip.model import CLIP
from clipdense.clip.vit import VisionTransformer
from clipdense.registry import MODELS, build_module
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError

from .recipes import find_recipe

_CELL = 32  # pixels of a ResNet's last stage


@MODELS.register_module()
class DenseCLIP(SegmentationModel):
    """Cosine of each patch with each class embedding; the recipe says what a patch's embedding is.

    Args:
        clip: any CLIP, its config, or weights as ``clipdense.load`` takes them.
        recipe: a name in ``recipes.RECIPES``; ResNets know 'maskclip' alone, the value path of their pool.
        slide: see ``SegmentationModel``; ``default_slide`` where left out.
        logit_scale, background_threshold, memory_budget: see ``SegmentationModel``.

    Raises:
        InputError: a recipe that is unknown, or that needs a transformer.
    """

    clip: CLIP
    weights_argument = 'clip'  # it has no weights of its own to load

    def __init__(
        self,
        clip: nn.Module | dict | str,
        recipe: str = 'maskclip',
        slide: Slide | dict | None = None,
        logit_scale: float = 40.0,
        background_threshold: float = 0.0,
        memory_budget: int = 256 << 20,
    ) -> None:
        clip = load(clip) if isinstance(clip, str) else build_module(clip)
        mean, std = clip.preprocess.mean, clip.preprocess.std
        slide = default_slide(clip) if slide is None else slide
        super().__init__(mean, std, slide, logit_scale, background_threshold, memory_budget)
        self.clip = clip
        self.recipe = find_recipe(recipe)
        if not isinstance(clip.image, VisionTransformer) and recipe != 'maskclip':
            raise InputError(f"method {recipe!r} needs a transformer; a ResNet's method is 'maskclip'")
        self.patch_size = getattr(clip.image.size, 'patch_size', _CELL)

    def encode_pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> unit embeddings (B, D, h, w)."""
        tower = self.clip.image
        if isinstance(tower, VisionTransformer):
            inputs, grid = tower.forward_layers(images, self.recipe.layers)  # (B, 1 + N, C) each
            embeddings = self.recipe.embed(tower, inputs, grid, None)  # (B, D, h, w)
        else:
            features = tower(images)
            embeddings = tower.project_patches(features.patch_tokens, features.grid)
        return F.normalize(embeddings, dim=1)

    def classify_pixels(self, features: Any, text: Tensor) -> Tensor:
        """(B, D, h, w), (K, D) or (B, K, D) -> cosines (B, K, h, w)."""
        return torch.einsum('bdhw,bkd->bkhw' if text.ndim == 3 else 'bdhw,kd->bkhw', features, text)


def default_slide(clip: CLIP, short_side: int | None = None) -> Slide:
    """The SCLIP protocol in proportion: at 224 pixels, short side 336, windows of 224, stride 112."""
    side = clip.image.size.image_size
    return Slide(short_side=short_side or side * 3 // 2, window=side, stride=max(1, side // 2))
