"""Trainings with contrastive loss (ITC) and matching (ITM).

B: pairs of this process, L: tokens, S: image tokens, W: their width, D: joint space, Q: queue, P: processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32
from clipdense.utils.dist import gather_with_grad, world_size
from clipdense.utils.errors import InputError

from .losses import matching_loss, negative_weights, soft_cross_entropy
from .model import TEMPERATURES, Blip
from .momentum import MomentumModel, Queue
from .tokenizer import Tokens
from .trainer import BlipTrainer, check_pairs, check_share, with_first

if TYPE_CHECKING:
    from mmengine.optim import OptimWrapper

Draw = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
_WHOLE = (
    'negatives are drawn from the whole batch, and the momentum model and its queue move once in a step, so '
    'parts of a batch are not the batch'
)


class Encoded(NamedTuple):
    """What the towers make of a batch."""

    tokens: Tensor  # (B, S, W)
    image: Tensor  # (B, D), unit norm
    text: Tensor  # (B, D), unit norm
    slow_image: Tensor  # (B, D), of the momentum model
    slow_text: Tensor  # (B, D)


class Pool(NamedTuple):
    """Images and texts among which negatives are drawn, G of each."""

    tokens: Tensor  # (G, S, W)
    texts: Tokens  # (G, L)


class MatchingTrainer(BlipTrainer):
    """A training with a momentum model; see ``BlipPretrainer`` for the arguments.

    In several processes the queue has the pairs of all of them, in order of rank.  Its earlier content apart,
    a process contrasts its pairs with its own only, as the release does; a subclass says where negatives are
    drawn.

    Raises:
        InputError: a model without encoder and heads, or a setting out of range.
    """

    steps: Tensor
    batch_matters = _WHOLE
    numbered = False  # whether pairs of one image match one another

    def __init__(
        self,
        blip: Blip,
        queue_size: int,
        momentum: float,
        alpha: float,
        ramp_steps: int,
        smoothing: float = 0.1,
        micro_batch: int | None = None,
        hard_negatives: bool = True,
    ) -> None:
        super().__init__(blip, smoothing)
        if micro_batch is not None:
            raise InputError(f'micro_batch is not possible: {_WHOLE}; lower batch_size')
        check_share(alpha=alpha)
        if ramp_steps < 0:
            raise InputError(f'ramp_steps must be at least 0, got {ramp_steps}')
        self.averages = MomentumModel(blip, momentum)
        self.queue = Queue(blip.size.embed_dim, queue_size, self.numbered)
        self.alpha, self.ramp_steps, self.hard_negatives = alpha, ramp_steps, hard_negatives
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One optimizer step."""
        logged = super().train_step(data, optim_wrapper)
        self.steps += 1
        return {**logged, 'temperature': self.blip.need_joint().temperature.detach()}

    def check_batch(self, size: int, last: bool = False) -> None:
        """Negatives are drawn from the other pairs of a batch.

        Raises:
            InputError: a batch of one pair, or one that is larger than the queue.
        """
        check_pairs(size, last)
        if 0 < self.queue.size < size * world_size():
            raise InputError(
                f'a step has {size * world_size()} pairs, more than queue_size={self.queue.size}: raise it'
            )

    def encode(self, images: Tensor, texts: Tokens) -> Encoded:
        """Clamp the temperature, encode, and move the momentum model, in the order of the release."""
        blip = self.blip
        with torch.no_grad():
            blip.need_joint().temperature.clamp_(*TEMPERATURES)
        tokens = blip.encode_image(images)  # (B, S, W)
        image, text = blip.embed_image(tokens), blip.embed_text(*texts)  # (B, D)
        self.averages.update(blip)
        found = image, text, *self.averages(images, texts)
        return Encoded(tokens, *map(at_least_fp32, found))

    def contrast(self, batch: Encoded, numbers: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The contrastive loss, after which the pairs are in the queue.

        Args:
            batch: see ``encode``.
            numbers: (B,) of images, for a queue with numbers: pairs of one image share the target.

        Returns:
            The loss, and similarities of texts to images and of images to texts, (B, B + Q) each.
        """
        images = torch.cat([batch.slow_image.mT, self.queue.image.clone()], dim=1)  # (D, B + Q)
        texts = torch.cat([batch.slow_text.mT, self.queue.text.clone()], dim=1)
        temperature, alpha = self.blip.need_joint().temperature, self._alpha()
        to_texts, to_images = batch.image @ texts / temperature, batch.text @ images / temperature
        with torch.no_grad():
            slow_to_texts = batch.slow_image @ texts / temperature
            slow_to_images = batch.slow_text @ images / temperature
        positives = None if numbers is None else self._positives(numbers)
        one = soft_cross_entropy(to_texts, slow_to_texts, alpha, positives)
        other = soft_cross_entropy(to_images, slow_to_images, alpha, positives)
        everyone = None if numbers is None else gather_with_grad(numbers)
        self.queue.write(gather_with_grad(batch.slow_image), gather_with_grad(batch.slow_text), everyone)
        return (one + other) / 2, to_images, to_texts

    def weights(self, to_images: Tensor, same: Tensor | None = None) -> Tensor:
        """Similarities (B, B) -> weights for drawing negatives, see ``negative_weights``."""
        return negative_weights(to_images if self.hard_negatives else torch.zeros_like(to_images), same)

    def match(
        self,
        tokens: Tensor,
        texts: Tokens,
        weights: tuple[Tensor, Tensor],
        draw: Draw | None = None,
        pool: Pool | None = None,
    ) -> Tensor:
        """The matching loss: pairs that match, texts with a negative image, and images with a negative text.

        Args:
            tokens: (B, S, W).
            texts: B.
            weights: for drawing, of images for each text and of texts for each image, (B, G) each.  A pair
                whose weights are all 0 has no negative, and is left out of those that do not match.
            draw: weights -> the index of a negative image and of a negative text, (B,) each.
            pool: where negatives are drawn; the pairs themselves by default.
        """
        some = torch.arange(len(tokens), device=tokens.device)[weights[0].any(dim=1)]  # (N,)
        image, text = (draw or _draw)(*(one[some] for one in weights))  # (N,)
        every = torch.arange(len(tokens), device=tokens.device)
        if pool is not None:  # its negatives come after the pairs
            drawn = torch.arange(len(some), device=tokens.device) + len(tokens)
            tokens = torch.cat([tokens, pool.tokens[image]])  # (B + N, S, W)
            texts = _joined(texts, Tokens(*(part[text] for part in pool.texts)), self.blip.text_size.ids.pad)
            image = text = drawn
        images, order = torch.cat([every, image, some]), torch.cat([every, some, text])  # (B + 2 N,)
        encoder, ids = self.blip.need_encoder(), with_first(texts.ids, self.blip.text_size.ids.enc)
        read = encoder.read(tokens).row(images)
        return matching_loss(self.blip.match(read, ids[order], texts.keep[order]), len(every))

    def of_all_processes(self, tokens: Tensor, texts: Tokens) -> Pool | None:
        """The images and texts of all processes, with gradients, in order of rank; None for one process."""
        if world_size() == 1:
            return None
        length = int(gather_with_grad(torch.tensor([texts.ids.shape[1]], device=tokens.device)).max())
        padded = _padded(texts, length, self.blip.text_size.ids.pad)
        return Pool(gather_with_grad(tokens), Tokens(*map(gather_with_grad, padded)))

    def _positives(self, numbers: Tensor) -> Tensor:
        """(B,) -> (B, B + Q), equal shares of the columns of the same image."""
        assert self.queue.numbers is not None
        columns = torch.cat([numbers, self.queue.numbers])  # (B + Q,)
        same = (numbers[:, None] == columns).float()
        return same / same.sum(dim=1, keepdim=True)

    def _alpha(self) -> float:
        return self.alpha * (min(1.0, int(self.steps) / self.ramp_steps) if self.ramp_steps else 1.0)


def _padded(texts: Tokens, length: int, pad: int) -> Tokens:
    """Texts (B, L) with more padding."""
    more = length - texts.ids.shape[1]
    return Tokens(F.pad(texts.ids, (0, more), value=pad), F.pad(texts.keep, (0, more)))


def _joined(texts: Tokens, others: Tokens, pad: int) -> Tokens:
    """Texts (B, L) and others (N, M), as long as the longest."""
    length = max(texts.ids.shape[1], others.ids.shape[1])
    parts = zip(*(_padded(some, length, pad) for some in (texts, others)), strict=True)
    return Tokens(*map(torch.cat, parts))


def _draw(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    if not len(images):
        none = torch.zeros(0, dtype=torch.int64, device=images.device)
        return none, none
    return torch.multinomial(images, 1)[:, 0], torch.multinomial(texts, 1)[:, 0]
