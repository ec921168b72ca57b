"""The momentum model and its queue of embeddings, for the contrastive loss of BLIP.

B: pairs of a step in all processes, D: joint space, Q: embeddings of earlier steps.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.utils.errors import InputError

from .model import Blip
from .tokenizer import Tokens
from .tower import image_tokens

NO_IMAGE = -100  # number of a random embedding


class MomentumModel(nn.Module):
    """Moving averages of image tower, encoder and projections, without gradients.

    In training mode its dropout is on, as in the release.

    Args:
        blip: with an encoder and a joint space.
        momentum: weight of the average.

    Raises:
        InputError: weights without what is averaged, or a momentum outside of [0, 1).
    """

    def __init__(self, blip: Blip, momentum: float = 0.995) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise InputError(f'momentum must be at least 0 and below 1, got {momentum}')
        if blip.encoder is None or blip.joint is None:
            raise InputError('the contrastive loss needs a BLIP with an encoder and a joint space')
        self.momentum = momentum
        self.image, self.encoder, self.joint = map(deepcopy, (blip.image, blip.encoder, blip.joint))
        self.requires_grad_(False)

    @torch.no_grad()
    def update(self, blip: Blip) -> None:
        """Move the averages towards the parameters of the model."""
        for name in ('image', 'encoder', 'joint'):
            pairs = zip(getattr(self, name).parameters(), getattr(blip, name).parameters(), strict=True)
            averages, parameters = zip(*pairs, strict=True)
            torch._foreach_lerp_(averages, parameters, 1 - self.momentum)

    @torch.no_grad()
    def forward(self, images: Tensor, texts: Tokens) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), B texts that start with ``ids.cls`` -> unit embeddings (B, D) of both."""
        tokens, _ = image_tokens(self.image, images)  # (B, S, W)
        states = self.encoder(texts.ids, texts.keep)  # (B, L, C)
        image, text = self.joint.image(tokens[:, 0]), self.joint.text(states[:, 0])
        return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


class Queue(nn.Module):
    """Embeddings of earlier steps, the oldest of which are replaced; random unit vectors at first.

    Args:
        embed_dim: D.
        size: Q, at least the pairs of a step.
        numbered: keep a number of the image with each embedding.

    Raises:
        InputError: a negative size.
    """

    image: Tensor  # (D, Q)
    text: Tensor  # (D, Q)
    place: Tensor  # scalar, where the next embeddings are written
    numbers: Tensor | None  # (Q,), of images

    def __init__(self, embed_dim: int, size: int, numbered: bool = False) -> None:
        super().__init__()
        if size < 0:
            raise InputError(f'queue_size must be at least 0, got {size}')
        for name in ('image', 'text'):
            self.register_buffer(name, F.normalize(torch.randn(embed_dim, size), dim=0))
        self.register_buffer('place', torch.zeros((), dtype=torch.int64))
        self.register_buffer('numbers', torch.full((size,), NO_IMAGE) if numbered else None)

    @property
    def size(self) -> int:
        """Q."""
        return self.image.shape[1]

    @torch.no_grad()
    def write(self, images: Tensor, texts: Tensor, numbers: Tensor | None = None) -> None:
        """Replace the oldest embeddings by those of a step, (B, D) each, and numbers (B,).

        Raises:
            InputError: more pairs than the queue has places.
        """
        size, count = self.size, len(images)
        if size == 0:
            return
        if count > size:
            raise InputError(f'a step has {count} pairs, more than the queue of {size}: raise queue_size')
        places = (self.place + torch.arange(count, device=images.device)) % size
        self.image[:, places] = images.mT.to(self.image.dtype)
        self.text[:, places] = texts.mT.to(self.text.dtype)
        if self.numbers is not None and numbers is not None:
            self.numbers[places] = numbers
        self.place.copy_((self.place + count) % size)
