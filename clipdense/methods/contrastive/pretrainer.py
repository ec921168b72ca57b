"""Training of a CLIP.  B: pairs, L: tokens, D: joint space."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.checkpoint import load
from clipdense.clip.losses import contrastive_loss, multi_label_loss, sigmoid_loss, text_numbers
from clipdense.clip.model import CLIP
from clipdense.clip.vit import VisionTransformer
from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.engine.train_step import as_batch, pretrain_step
from clipdense.registry import MODELS, build_module
from clipdense.tasks.model import Model, warn_of_image_size
from clipdense.utils.dist import world_size
from clipdense.utils.errors import InputError

from .patches import embed_patches

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
        lock_image: freeze the image tower (LiT).
        gradient_checkpointing: recompute activations in the backward pass, in both towers.
        phrase_weight: weight of a multi-label loss between the patches of an image, pooled by log-sum-exp,
            and the phrases of its caption; the dataset needs ``NounPrompts`` as tokenizer.
        phrase_patches: patch embeddings: 'values', the value path of the last block, or 'last', its output.
            The methods 'maskclip_no_residual' and 'vanilla' of ``dense_clip`` segment with these.
        equal_texts_match: phrases of several captions in the batch are positives for all of their images;
            otherwise for their own image only.

    Raises:
        InputError: a sigmoid loss without ``logit_bias``, or phrases with a ResNet as image tower.
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
        gradient_checkpointing: bool = False,
        phrase_weight: float = 0.0,
        phrase_patches: Literal['values', 'last'] = 'values',
        equal_texts_match: bool = False,
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
        if lock_image:
            model.image.requires_grad_(False)
            model.image.eval()
        self.lock_image = lock_image
        if phrase_weight and not isinstance(model.image, VisionTransformer):
            raise InputError(
                f'phrase_weight needs a vision transformer as image tower, not {type(model.image).__name__}'
            )
        if phrase_patches not in ('values', 'last'):
            raise InputError(f"phrase_patches must be 'values' or 'last', got {phrase_patches!r}")
        self.phrase_weight, self.equal_texts_match = phrase_weight, equal_texts_match
        self.phrase_patches = phrase_patches

    def train(self, mode: bool = True) -> ContrastivePretrainer:
        """A locked image tower stays in evaluation mode, which also freezes its statistics."""
        super().train(mode)
        if self.lock_image:
            self.clip.image.eval()
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
        image_embeddings, text_embeddings = image_embeddings.float(), text_embeddings.float()
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
        if size * world_size() > 1 or self.loss_name != 'softmax' or self.phrase_weight:
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
        if not self.phrase_weight:
            return self._encode, self.loss
        if 'prompt_ids' not in data:
            raise InputError(
                'phrase_weight needs phrases: set tokenizer=dict(type=NounPrompts) of the dataset'
            )
        return self._encode_phrases, self._phrase_losses(data)

    def _encode(self, part: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return self.clip(part['images'], part['token_ids'])

    def _encode_phrases(self, part: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Unit embeddings of images (B, D), captions (B, D), patches (B, N, D), prompts (B, M, D)."""
        ids = torch.cat([part['token_ids'][:, None], part['prompt_ids']], dim=1)
        images, patches = embed_patches(self.clip.image, part['images'], self.phrase_patches)
        images = F.normalize(images, dim=-1)
        patches = patches.flatten(2).mT  # (B, N, D)
        different, places = ids.flatten(0, 1).unique(dim=0, return_inverse=True)  # prompts repeat
        texts = self.clip.encode_text(different, normalize=True)[places].unflatten(0, ids.shape[:2])
        return images, texts[:, 0], F.normalize(patches, dim=-1), texts[:, 1:]

    def _phrase_losses(self, data: dict[str, Tensor]) -> Callable[..., Tensor]:
        phrases = None
        if self.equal_texts_match:
            phrases = data['phrases'] if 'phrases' in data else text_numbers(data['prompt_ids'])

        def losses(images: Tensor, texts: Tensor, patches: Tensor, prompts: Tensor) -> Tensor:
            patches, prompts = patches.float(), prompts.float()
            pooled = multi_label_loss(patches, prompts, self.logit_scale, phrases=phrases)
            return self.loss(images, texts) + self.phrase_weight * pooled

        return losses
