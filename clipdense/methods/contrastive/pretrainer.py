"""Training of a CLIP.  B: pairs, L: tokens, D: joint space."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from clipdense.clip.checkpoint import load
from clipdense.clip.losses import contrastive_loss, sigmoid_loss
from clipdense.clip.model import CLIP
from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.engine.train_step import as_batch, pretrain_step, split_batch
from clipdense.layers.depth import keep_locked, lock_layers
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import MODELS, build, build_module
from clipdense.tasks.model import Model, warn_of_image_size
from clipdense.utils.dist import world_size
from clipdense.utils.errors import InputError

from .phrases import PhraseLoss
from .teacher import Teacher

if TYPE_CHECKING:
    from mmengine.optim import OptimWrapper


@MODELS.register_module()
class ContrastivePretrainer(Model):
    """Trains a CLIP to match images and texts of a batch.

    Args:
        clip: the model to train, its config, or weights as ``clipdense.load`` takes them.
        loss: 'softmax' (CLIP) or 'sigmoid' (SigLIP; the model needs a ``logit_bias``).
        temperature: a fixed divisor of the cosines; None learns ``logit_scale``.
        micro_batch: pairs that are encoded together, for batches that exceed the memory; the gradient is
            that of the full batch; batch norm statistics are per micro-batch.  None: all pairs at once.
        lock_image, lock_text: freeze a tower (LiT); batch norms keep their statistics.
        unlocked_groups: number of the last groups of layers of locked towers that are trained all the same:
            1 for the final norm and the projection, 2 for the last block as well, and so on.
        gradient_checkpointing: recompute activations in the backward pass, in both towers.
        phrases: a ``PhraseLoss`` or its config: a loss between patches and noun phrases of the caption.
        teacher: a ``Teacher`` or its config: a loss that follows the similarities of a trained CLIP.

    Raises:
        InputError: a sigmoid loss without ``logit_bias``, both towers locked, phrases with a ResNet as image
            tower, or a teacher with another vocabulary.
    """

    clip: CLIP
    weights_argument = 'clip'  # tests accept weights of any size for this argument

    def __init__(
        self,
        clip: nn.Module | dict | str,
        loss: Literal['softmax', 'sigmoid'] = 'softmax',
        temperature: float | None = None,
        micro_batch: int | None = None,
        lock_image: bool = False,
        lock_text: bool = False,
        unlocked_groups: int = 0,
        gradient_checkpointing: bool = False,
        phrases: PhraseLoss | dict | None = None,
        teacher: Teacher | dict | None = None,
    ) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise InputError(f'micro_batch must be at least 1, got {micro_batch}')
        model: CLIP = load(clip) if isinstance(clip, str) else build_module(clip)
        super().__init__(data_preprocessor=ImagePreprocessor(model.preprocess.mean, model.preprocess.std))
        self.clip = model
        self.loss_name = loss
        self.temperature = temperature
        self.micro_batch = micro_batch
        if loss == 'sigmoid' and model.logit_bias is None:
            raise InputError("loss='sigmoid' needs a model with a logit_bias: pass CLIP(..., logit_bias=-10)")
        model.set_gradient_checkpointing(gradient_checkpointing)
        model.logit_scale.requires_grad_(temperature is None)
        self.locked = [name for name, lock in (('image', lock_image), ('text', lock_text)) if lock]
        self._lock(unlocked_groups)
        self.phrases: PhraseLoss | None = build(phrases, MODELS)
        self.teacher: Teacher | None = build(teacher, MODELS)
        for part in (self.phrases, self.teacher):
            if part is not None:
                part.check(model)

    def _lock(self, unlocked_groups: int) -> None:
        if len(self.locked) == 2 and not unlocked_groups:
            raise InputError(
                'lock_image and lock_text together leave no layers to train: lock one, or set unlocked_groups'
            )
        if unlocked_groups and not self.locked:
            raise InputError('unlocked_groups is for locked towers: set lock_image or lock_text as well')
        for name in self.locked:
            lock_layers(getattr(self.clip, name), unlocked_groups)

    def train(self, mode: bool = True) -> ContrastivePretrainer:
        """Locked layers stay in evaluation mode, which also freezes their statistics."""
        super().train(mode)
        for name in self.locked:
            keep_locked(getattr(self.clip, name))
        return self

    def forward(
        self,
        images: Tensor,
        token_ids: Tensor,
        prompt_ids: Tensor | None = None,
        phrases: Tensor | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """(B, 3, H, W) normalized, (B, L) -> losses (mode 'loss') or the two embeddings (B, D).

        Phrases add (B, M, L) and (B, M), which are used for the loss only.
        """
        if mode != 'loss':
            return self.clip(images, token_ids)
        data = as_batch(images=images, token_ids=token_ids, prompt_ids=prompt_ids, phrases=phrases)
        encode, loss = self._halves(data)
        return {'loss': loss(*encode(data))}

    def loss(self, image_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
        """(B, D) unit embeddings of this process -> the loss over the batch of all processes."""
        image_embeddings, text_embeddings = at_least_fp32(image_embeddings), at_least_fp32(text_embeddings)
        if self.loss_name == 'sigmoid' and self.clip.logit_bias is not None:
            return sigmoid_loss(image_embeddings, text_embeddings, self.logit_scale, self.clip.logit_bias)
        return contrastive_loss(image_embeddings, text_embeddings, self.logit_scale)

    @property
    def logit_scale(self) -> Tensor | float:
        """The factor on the cosines."""
        return self.clip.logit_scale.exp() if self.temperature is None else 1 / self.temperature

    def check_batch(self, size: int, last: bool = False) -> None:
        """A single pair over all processes has nothing to be told apart from: its softmax loss is 0.

        Raises:
            InputError: all batches have one pair.
        """
        if size * world_size() > 1 or self.loss_name != 'softmax' or self.phrases:
            return
        if not last:
            raise InputError(
                'a batch of one pair has a contrastive loss of 0, so nothing is learned: use a batch_size of '
                "at least 2 (hundreds are usual), or loss='sigmoid'"
            )
        warnings.warn(
            'the last batch of each epoch has one pair, from which nothing is learned: set drop_last=True',
            stacklevel=2,
        )

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One optimizer step, after which the logit scale is clamped."""
        data = self.data_preprocessor(data, training=True)
        warn_of_image_size(self.clip, data['images'])
        loss = pretrain_step(self, data, *self._halves(data), optim_wrapper)
        return {'loss': loss, 'logit_scale': torch.as_tensor(self.logit_scale).detach()}

    def _halves(self, data: dict[str, Tensor]) -> tuple[Callable[..., Any], Callable[..., Tensor]]:
        """The encoder of a micro-batch, and the loss of the embeddings of the batch."""
        taught = None
        if self.teacher is not None:
            parts = split_batch(data, self.micro_batch or len(data['images']))
            taught = self.teacher.encode(parts, self.clip.preprocess)

        def encode(part: dict[str, Tensor]) -> tuple[Tensor, ...]:
            if self.phrases is not None:
                return self.phrases.encode(self.clip, part)  # (B, D), (B, D), (B, N, D), (B, M, D)
            return self.clip(part['images'], part['token_ids'])  # (B, D), (B, D)

        def loss(
            images: Tensor, texts: Tensor, patches: Tensor | None = None, prompts: Tensor | None = None
        ) -> Tensor:
            total = self.loss(images, texts)
            if self.phrases is not None and patches is not None and prompts is not None:
                total = total + self.phrases(patches, prompts, self.logit_scale, data)
            if self.teacher is not None and taught is not None:
                total = total + self.teacher.loss(images, texts, self.logit_scale, taught)
            return total

        return encode, loss
