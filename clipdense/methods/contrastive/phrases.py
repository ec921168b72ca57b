"""Noun phrases of a caption on the patches of its image.

B: pairs, N: patches, M: phrases of an image, L: tokens, D: joint space.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.losses import multi_label_loss, text_numbers
from clipdense.clip.model import CLIP
from clipdense.clip.vit import VisionTransformer
from clipdense.registry import MODELS
from clipdense.utils.errors import InputError

from .patches import embed_patches


@MODELS.register_module()
class PhraseLoss:
    """Contrasts the patches of an image, pooled by log-sum-exp, with the phrases of its caption.

    The dataset needs ``NounPrompts`` as tokenizer.

    Args:
        weight: of this loss beside that of images and captions.
        patches: patch embeddings: 'values', the value path of the last block, or 'last', its output.
            The methods 'maskclip_no_residual' and 'vanilla' of ``dense_clip`` segment with these.
        equal_texts_match: phrases of several captions in the batch are positives for all of their images;
            otherwise for their own image only.

    Raises:
        InputError: another kind of patch embeddings, or a weight of 0 or less.
    """

    def __init__(
        self,
        weight: float = 1.0,
        patches: Literal['values', 'last'] = 'values',
        equal_texts_match: bool = False,
    ) -> None:
        if patches not in ('values', 'last'):
            raise InputError(f"patches of PhraseLoss must be 'values' or 'last', got {patches!r}")
        if not weight > 0:
            raise InputError(f'weight of PhraseLoss must be positive, got {weight!r}')
        self.weight, self.patches, self.equal_texts_match = weight, patches, equal_texts_match

    def check(self, clip: CLIP) -> None:
        """Refuse a CLIP without patches.

        Raises:
            InputError: the image tower is not a vision transformer.
        """
        if not isinstance(clip.image, VisionTransformer):
            raise InputError(
                f'PhraseLoss needs a vision transformer as image tower, not {type(clip.image).__name__}'
            )

    def encode(self, clip: CLIP, part: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Unit embeddings of images (B, D), captions (B, D), patches (B, N, D), phrases (B, M, D).

        Args:
            clip: the model in training.
            part: a micro-batch with ``images``, ``token_ids`` (B, L) and ``prompt_ids`` (B, M, L).

        Raises:
            InputError: a batch without phrases.
        """
        if 'prompt_ids' not in part:
            raise InputError('PhraseLoss needs phrases: set tokenizer=dict(type=NounPrompts) of the dataset')
        ids = torch.cat([part['token_ids'][:, None], part['prompt_ids']], dim=1)  # (B, 1 + M, L)
        images, patches = embed_patches(clip.image, part['images'], self.patches)
        patches = patches.flatten(2).mT  # (B, N, D)
        different, places = ids.flatten(0, 1).unique(dim=0, return_inverse=True)  # phrases repeat
        texts = clip.encode_text(different, normalize=True)[places].unflatten(0, ids.shape[:2])
        return F.normalize(images, dim=-1), texts[:, 0], F.normalize(patches, dim=-1), texts[:, 1:]

    def __call__(
        self, patches: Tensor, prompts: Tensor, logit_scale: Tensor | float, data: Mapping[str, Tensor]
    ) -> Tensor:
        """Patches (B, N, D) and phrases (B, M, D) of the whole batch -> the weighted loss."""
        phrases = None
        if self.equal_texts_match:
            phrases = data['phrases'] if 'phrases' in data else text_numbers(data['prompt_ids'])
        pooled = multi_label_loss(patches.float(), prompts.float(), logit_scale, phrases=phrases)
        return self.weight * pooled
