"""A trained CLIP as teacher of the one in training.  B: pairs, L: tokens, E: joint space of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.checkpoint import load
from clipdense.clip.losses import distillation_loss
from clipdense.clip.model import CLIP
from clipdense.clip.preprocess import Preprocess
from clipdense.clip.tokenizers import OpenAITokenizer
from clipdense.registry import MODELS
from clipdense.utils.errors import InputError


@MODELS.register_module()
class Teacher:
    """Adds a loss between the similarities within a batch of a trained CLIP and of the model in training.

    The teacher is frozen, and it is not saved with the model.

    Args:
        clip: the teacher, or weights as ``clipdense.load`` takes them.
        weight: of the loss beside the contrastive one.

    Raises:
        InputError: a weight of 0 or less.

    Source: Hinton et al. (arXiv 1503.02531); the loss is that of open_clip ``--distill-model``.
    """

    def __init__(self, clip: CLIP | str | Path, weight: float = 1.0) -> None:
        if not weight > 0:
            raise InputError(f'weight of Teacher must be positive, got {weight!r}')
        self.clip: CLIP = clip if isinstance(clip, CLIP) else load(clip)
        self.clip.requires_grad_(False).eval()
        self.weight = weight

    def check(self, student: CLIP) -> None:
        """Refuse a teacher that cannot read the token ids of the student.

        Raises:
            InputError: one of the two does not have OpenAI's tokenizer, or they have other vocabularies.
        """
        for name, clip in (('teacher', self.clip), ('model in training', student)):
            if not isinstance(clip.tokenizer, OpenAITokenizer):
                raise InputError(
                    f'the {name} has a {type(clip.tokenizer).__name__}; both need the tokenizer of OpenAI, '
                    'since they read the same token ids'
                )
        sizes = [clip.text.size.vocab_size for clip in (self.clip, student)]
        if sizes[0] != sizes[1]:
            raise InputError(
                f'the teacher has a vocabulary of {sizes[0]} token ids, the model of {sizes[1]}; '
                'they must be equal'
            )

    @torch.no_grad()
    def encode(
        self, parts: Sequence[dict[str, Any]], preprocess: Preprocess
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings of images and texts (B, E) of a batch in parts, and the teacher's factor.

        Args:
            parts: micro-batches with ``images``, normalized for the student, and ``token_ids``.
            preprocess: that of the student; images are normalized and resized again for the teacher.
        """
        self.clip.to(parts[0]['images'].device)
        embeddings = [
            self.clip(
                for_teacher(part['images'], preprocess, self.clip.preprocess),
                cut_texts(part['token_ids'], self.clip.text.size.context_length),
            )
            for part in parts
        ]
        images, texts = (torch.cat(column).float() for column in zip(*embeddings, strict=True))
        return images, texts, self.clip.logit_scale.exp()

    def loss(
        self, images: Tensor, texts: Tensor, logit_scale: Tensor | float, teacher: Sequence[Any]
    ) -> Tensor:
        """Embeddings (B, D) of the model, and what ``encode`` returned -> the weighted loss."""
        return self.weight * distillation_loss(images.float(), texts.float(), logit_scale, *teacher)


def for_teacher(images: Tensor, student: Preprocess, teacher: Preprocess) -> Tensor:
    """Images (B, 3, H, W) normalized for one model -> normalized and resized for another."""
    old_mean, old_std, mean, std = (
        torch.tensor(values, device=images.device).view(3, 1, 1)
        for values in (student.mean, student.std, teacher.mean, teacher.std)
    )
    images = (images * old_std + old_mean - mean) / std
    side = teacher.image_size
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode='bicubic', antialias=True, align_corners=False)


def cut_texts(token_ids: Tensor, length: int) -> Tensor:
    """(B, L) token ids -> at most ``length`` of them; a text that is cut ends with its end-of-text token."""
    if token_ids.shape[1] <= length:
        return token_ids
    cut = token_ids[:, :length].clone()
    end = token_ids.amax(dim=1)  # end-of-text has the largest id
    cut[:, -1] = torch.where((cut == end[:, None]).any(dim=1), cut[:, -1], end)
    return cut
