"""Pre-training of BLIP.  B: pairs, L: tokens, S: image tokens, D: joint space, Q: queue, V: ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clipdense.clip.checkpoint import describe
from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.engine.parallel import run_pass
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import MODELS, build_module
from clipdense.tasks.model import Model, total_loss
from clipdense.utils.dist import gather_with_grad, world_size
from clipdense.utils.errors import InputError

from .checkpoint import load
from .losses import lm_labels, lm_loss, matching_loss, negative_weights, soft_cross_entropy
from .model import TEMPERATURES, Blip
from .momentum import MomentumModel, Queue
from .tokenizer import Tokens

if TYPE_CHECKING:
    from mmengine.optim import OptimWrapper

Draw = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@MODELS.register_module()
class BlipPretrainer(Model):
    """Contrastive loss (ITC), matching with hard negatives (ITM) and language modeling (LM) in one step.

    ``token_ids`` of the data are (B, L), those of ``CaptionIds``: they start with ``ids.cls``, and padding is
    negative.  Batches are not split into micro-batches: negatives are drawn from the batch, and a part of it
    would have others.

    Args:
        blip: a BLIP with encoder, decoder and heads, its config, or weights for ``checkpoint.load``.
        queue_size: Q; 57600 in the release.
        momentum: of the momentum model.
        alpha: weight of its soft targets, which grows linearly over the first steps.
        ramp_steps: number of these steps; two epochs in the release.
        smoothing: of the labels of language modeling.

    Raises:
        InputError: a model without these parts, or a setting out of range.

    Source: arXiv 2201.12086, section 3.2; salesforce/BLIP models/blip_pretrain.py.
    """

    blip: Blip
    steps: Tensor
    weights_argument = 'blip'

    def __init__(
        self,
        blip: nn.Module | dict | str,
        queue_size: int = 57600,
        momentum: float = 0.995,
        alpha: float = 0.4,
        ramp_steps: int = 0,
        smoothing: float = 0.1,
    ) -> None:
        model: Blip = load(blip) if isinstance(blip, str | Path) else build_module(blip)
        super().__init__(data_preprocessor=ImagePreprocessor(model.preprocess.mean, model.preprocess.std))
        if not model.size.shared or model.itm_head is None:
            raise InputError(
                'pre-training needs a BLIP whose encoder and decoder share their layers, with a matching '
                "head (such as the size 'BLIP-B')"
            )
        for name, value in (('alpha', alpha), ('smoothing', smoothing)):
            if not 0 <= value < 1:
                raise InputError(f'{name} must be at least 0 and below 1, got {value}')
        if ramp_steps < 0:
            raise InputError(f'ramp_steps must be at least 0, got {ramp_steps}')
        self.blip = model
        self.averages = MomentumModel(model, momentum)
        self.queue = Queue(model.size.embed_dim, queue_size)
        self.alpha, self.ramp_steps, self.smoothing = alpha, ramp_steps, smoothing
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor, token_ids: Tensor, mode: str = 'tensor') -> Any:
        """(B, 3, H, W) normalized, (B, L) -> unit embeddings (B, D) of both, or in mode 'loss' the losses.

        In mode 'loss' the momentum model and the queue are updated, as in a step of training.
        """
        texts = self._tokens(token_ids)
        if mode == 'loss':
            return self.losses(images, texts)
        return self.blip.embed_image(self.blip.encode_image(images)), self.blip.embed_text(*texts)

    def losses(self, images: Tensor, texts: Tokens, draw: Draw | None = None) -> dict[str, Tensor]:
        """The three losses of a step, in the order of the release.

        Args:
            images: (B, 3, H, W), normalized.
            texts: B texts that start with ``ids.cls``.
            draw: weights (B, B) of images for each text and of texts for each image -> the index of a
                negative image for each text and of a negative text for each image, (B,) each; drawn by these
                weights by default.
        """
        blip, joint = self.blip, self.blip.joint
        assert joint is not None
        with torch.no_grad():
            joint.temperature.clamp_(*TEMPERATURES)
        tokens = blip.encode_image(images)  # (B, S, W)
        image, text = blip.embed_image(tokens), blip.embed_text(*texts)  # (B, D)

        self.averages.update(blip)
        slow_image, slow_text = self.averages(images, texts)  # (B, D)
        contrastive, to_images, to_texts = self._contrast(image, text, slow_image, slow_text)
        self.queue.write(gather_with_grad(slow_image), gather_with_grad(slow_text))

        pairs = len(images)
        weights = negative_weights(to_images[:, :pairs]), negative_weights(to_texts[:, :pairs])  # (B, B)
        negative_image, negative_text = (draw or _draw)(*weights)  # (B,)
        matching = self._match(tokens, texts, negative_image, negative_text)
        return {
            'contrastive_loss': contrastive,
            'matching_loss': matching,
            'language_loss': self._generate(tokens, texts),
        }

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One optimizer step."""
        data = self.data_preprocessor(data, training=True)
        with optim_wrapper.optim_context(self):
            losses = run_pass(self, self.losses, data['images'], self._tokens(data['token_ids']))
        total, logged = total_loss(losses)
        optim_wrapper.update_params(total)
        self.steps += 1
        assert self.blip.joint is not None
        return {**logged, 'temperature': self.blip.joint.temperature.detach()}

    def check_batch(self, size: int, last: bool = False) -> None:
        """Negatives are drawn from the other pairs of a batch.

        Raises:
            InputError: a batch of one pair, or one that is larger than the queue.
        """
        if size < 2:
            where = (
                'the last batch of each epoch has one pair: set drop_last=True' if last else 'got one pair'
            )
            raise InputError(f'matching needs a negative from the batch, so at least two pairs: {where}')
        if 0 < self.queue.image.shape[1] < size * world_size():
            raise InputError(
                f'a step has {size * world_size()} pairs, more than queue_size={self.queue.image.shape[1]}'
            )

    def checkpoint_meta(self) -> dict[str, Any]:
        """What ``clipdense.load`` needs to read the BLIP in a training checkpoint."""
        return {'blip': describe(self.blip.size, self.blip.preprocess)}  # type: ignore[arg-type]

    def _contrast(
        self, image: Tensor, text: Tensor, slow_image: Tensor, slow_text: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and similarities of texts to images and of images to texts, (B, B + Q) each."""
        assert self.blip.joint is not None
        image, text, slow_image, slow_text = map(at_least_fp32, (image, text, slow_image, slow_text))
        images = torch.cat([slow_image.mT, self.queue.image.clone()], dim=1)  # (D, B + Q)
        texts = torch.cat([slow_text.mT, self.queue.text.clone()], dim=1)
        temperature, alpha = self.blip.joint.temperature, self._alpha()
        to_texts, to_images = image @ texts / temperature, text @ images / temperature
        with torch.no_grad():
            slow_to_texts, slow_to_images = slow_image @ texts / temperature, slow_text @ images / temperature
        one = soft_cross_entropy(to_texts, slow_to_texts, alpha)
        other = soft_cross_entropy(to_images, slow_to_images, alpha)
        return (one + other) / 2, to_images, to_texts

    def _match(self, tokens: Tensor, texts: Tokens, negative_image: Tensor, negative_text: Tensor) -> Tensor:
        """Pairs that match, then texts with a negative image, then images with a negative text."""
        blip, keep = self.blip, texts.keep
        encoder, ids = blip.need_encoder(), _first(texts.ids, blip.text_size.ids.enc)
        read = encoder.read(torch.cat([tokens, tokens[negative_image], tokens]))  # 3 B images
        every_id, every_keep = (
            torch.cat([ids, ids, ids[negative_text]]),
            torch.cat([keep, keep, keep[negative_text]]),
        )
        return matching_loss(blip.match(read, every_id, every_keep), len(tokens))

    def _generate(self, tokens: Tensor, texts: Tokens) -> Tensor:
        ids = _first(texts.ids, self.blip.text_size.ids.dec)
        scores = self.blip.predict(self.blip.need_decoder().read(tokens), ids, texts.keep)  # (B, L, V)
        return lm_loss(scores, lm_labels(ids, texts.keep), self.smoothing)

    def _alpha(self) -> float:
        return self.alpha * (min(1.0, int(self.steps) / self.ramp_steps) if self.ramp_steps else 1.0)

    def _tokens(self, token_ids: Tensor) -> Tokens:
        """Ids (B, L) whose padding is negative."""
        keep = token_ids >= 0
        if not keep[:, :2].all():
            raise InputError('a caption has no ids: use the tokenizer CaptionIds for the dataset')
        if not (token_ids[:, 0] == self.blip.text_size.ids.cls).all():
            raise InputError(
                f'captions must start with the id {self.blip.text_size.ids.cls}: use the tokenizer '
                'CaptionIds for the dataset'
            )
        if bool((token_ids[keep] >= self.blip.text_size.vocab_size).any()):
            raise InputError('captions have ids that the model does not have: their tokenizer is another one')
        length = int(keep.sum(dim=1).max())
        ids = token_ids.masked_fill(~keep, self.blip.text_size.ids.pad)
        return Tokens(ids[:, :length], keep[:, :length].long())


def _first(ids: Tensor, start: int) -> Tensor:
    """Texts with another first id."""
    ids = ids.clone()
    ids[:, 0] = start
    return ids


def _draw(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    return torch.multinomial(images, 1)[:, 0], torch.multinomial(texts, 1)[:, 0]
