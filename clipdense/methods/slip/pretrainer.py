"""Pre-training with captions and views.  B: images, V: views, L: tokens, D: joint space, C: width."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clipdense.clip.checkpoint import load
from clipdense.clip.losses import contrastive_loss
from clipdense.clip.model import CLIP
from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.engine.train_step import pretrain_step, split_batch
from clipdense.layers.batch_norm import statistics_kept
from clipdense.registry import MODELS, build_module
from clipdense.tasks.model import Model, warn_of_image_size
from clipdense.utils.dist import world_size
from clipdense.utils.errors import InputError

from .partner import Partner, check_positive

if TYPE_CHECKING:
    from mmengine.optim import OptimWrapper

_PROJECTIONS = ('proj', 'attn_pool.proj.', 'head.', 'trunk.head.')  # of the image towers


@MODELS.register_module()
class SlipPretrainer(Model):
    """Trains a CLIP on images with captions, and its image tower on augmented views of the same images.

    The loss is ``clip_weight * clip_loss + ssl_scale * ssl_loss``.  With ``clip_weight=0`` the image tower
    learns alone, from images with or without captions: the first stage of the serial variant, whose second
    stage is ``ContrastivePretrainer`` on the exported file.

    Batch norm in the image tower (a ResNet) normalizes each view by its own batch; its running statistics are
    those of the images of captions alone, which evaluation resembles.

    Args:
        clip: the model to train, its config, or weights as ``clipdense.load`` takes them.
        partner: the self-supervised part, such as ``dict(type=SimClr)``.
        ssl_scale: weight of its loss.
        clip_weight: weight of the loss of captions; 0 for none, then the data needs no captions.
        micro_batch: images that are encoded together, for batches that exceed the memory; gradients, and
            batch norm of the heads, are those of the whole batch.  None: all images at once.
        gradient_checkpointing: recompute activations in the backward pass, in both towers.

    Raises:
        InputError: a weight that is not a number of at least 0, no partner, or a model with a ``logit_bias``.

    Source: Mu et al., arXiv 2112.12750, section 3; facebookresearch/SLIP ``models.py`` SLIP, ``losses.py``.
    """

    clip: CLIP
    weights_argument = 'clip'

    def __init__(
        self,
        clip: nn.Module | dict | str,
        partner: nn.Module | dict,
        ssl_scale: float = 1.0,
        clip_weight: float = 1.0,
        micro_batch: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        check_positive(ssl_scale=ssl_scale, **({} if clip_weight == 0 else {'clip_weight': clip_weight}))
        if micro_batch is not None:
            check_positive(micro_batch=micro_batch)
        model: CLIP = load(clip) if isinstance(clip, str) else build_module(clip)
        if model.logit_bias is not None:
            raise InputError('SLIP has a softmax loss: give a model without a logit_bias (no SigLIP)')
        super().__init__(data_preprocessor=ImagePreprocessor(model.preprocess.mean, model.preprocess.std))
        self.clip = model
        built: Any = MODELS.build({'clip': model, **partner}) if isinstance(partner, dict) else partner
        if not isinstance(built, Partner):
            raise InputError(
                'partner must be a self-supervised part such as dict(type=SimClr), got '
                f'{type(partner).__name__}'
            )
        self.partner = built
        self.ssl_scale, self.clip_weight, self.micro_batch = ssl_scale, clip_weight, micro_batch
        model.set_gradient_checkpointing(gradient_checkpointing)
        if not clip_weight:
            _freeze_unused(model)

    def forward(self, images: Tensor, token_ids: Tensor | None = None, mode: str = 'tensor', **_: Any) -> Any:
        """(B, V, 3, H, W) normalized, (B, L) -> losses (mode 'loss'), or the two embeddings (B, D).

        The first of the V images belongs to the caption, unless ``clip_weight`` is 0.  For embeddings images
        may be (B, 3, H, W).
        """
        if mode != 'loss':
            return self.clip(images[:, 0] if images.ndim == 5 else images, token_ids)
        data = {'images': images} | ({} if token_ids is None else {'token_ids': token_ids})
        self._check(data)
        return self._losses(*self._encode(data), targets=self._targets(images))

    def check_batch(self, size: int, last: bool = False) -> None:
        """Batch norm, and losses that contrast images, need several of them.

        Raises:
            InputError: a batch of one.
        """
        needed = max(self.partner.least, 2 if self.clip_weight else 1)
        if size * world_size() >= needed:
            return
        found = (
            f'the last batch of each epoch has {size}: set drop_last=True'
            if last
            else f'got batch_size={size}'
        )
        reason = (
            self.partner.reason if self.partner.least > 1 else 'a single pair has a contrastive loss of 0'
        )
        raise InputError(f'SLIP needs at least {needed} images per step ({reason}): {found}')

    def set_steps(self, steps: int) -> None:
        """The length of the training, for the schedules of the partner."""
        self.partner.set_steps(steps)

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One step of the optimizer, after which the logit scale is clamped and teachers follow."""
        data = self.data_preprocessor(data, training=True)
        names = ('images', 'token_ids') if self.clip_weight else ('images',)
        data = {name: data[name] for name in names if name in data}
        self._check(data)
        warn_of_image_size(self.clip, data['images'][:, 0])
        with optim_wrapper.optim_context(self):
            targets = self._targets(data['images'])
        found = pretrain_step(self, data, self._encode, partial(self._losses, targets=targets), optim_wrapper)
        self.partner.after_step(self.clip.image)
        weights = {'clip_loss': self.clip_weight, 'ssl_loss': self.ssl_scale}
        total = torch.stack([found[name] for name in weights if name in found]).sum()
        logged = {name: value / weights.get(name, 1) for name, value in found.items()}
        scale = {'logit_scale': self.clip.logit_scale.exp().detach()} if self.clip_weight else {}
        return {'loss': total, **logged, **scale}

    def _encode(self, part: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Unit embeddings of images and captions (b, D), and features of views for the partner."""
        views = self._views(part['images'])
        if not self.clip_weight:
            return self.partner.features(self.clip.image, views)
        with statistics_kept(self.clip.image):  # those of a ResNet are of images as they are used
            features = self.partner.features(self.clip.image, views)
        return *self.clip(part['images'][:, 0], part['token_ids']), *features

    def _losses(self, *encoded: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted 'clip_loss' and 'ssl_loss' of the batch, and what is logged."""
        losses: dict[str, Tensor] = {}
        if self.clip_weight:
            images, texts, *encoded = (x.float() if x.dtype.itemsize < 4 else x for x in encoded)  # type: ignore[assignment]
            clip_loss = contrastive_loss(images, texts, self.clip.logit_scale.exp())
            losses['clip_loss'] = self.clip_weight * clip_loss
            right = torch.arange(len(images), device=images.device)
            losses['clip_accuracy'] = ((images @ texts.mT).detach().argmax(dim=1) == right).float().mean()
        losses |= self.partner.loss(tuple(encoded), targets)
        losses['ssl_loss'] = self.ssl_scale * losses['ssl_loss']
        return losses

    @torch.no_grad()
    def _targets(self, images: Tensor) -> dict[str, Tensor]:
        """What the partner's teacher makes of the whole batch, in micro-batches."""
        parts = split_batch({'images': images}, self.micro_batch or len(images))
        found = [self.partner.targets(self._views(part['images'])) for part in parts]
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def _views(self, images: Tensor) -> Tensor:
        """(b, V, 3, H, W) -> the views of the partner, which come last."""
        return images[:, -self.partner.views :]

    def _check(self, data: dict[str, Any]) -> None:
        """Refuse batches without views, and without captions where they are needed."""
        images, wanted = data['images'], self.partner.views + bool(self.clip_weight)
        shape = (
            tuple(images.shape) if isinstance(images, Tensor) else f'{len(images)} images of several sizes'
        )
        if not isinstance(images, Tensor) or images.ndim != 5 or images.shape[1] < wanted:
            views = ', '.join(f'{name}=...' for name in ('first', 'second')[: self.partner.views])
            caption = 'caption=..., ' if self.clip_weight else ''
            raise InputError(
                f'{type(self.partner).__name__} needs {wanted} images per sample, got a batch {shape}: set '
                f'transform=dict(type=ImageViews, {caption}views=dict({views})) of the dataset'
            )
        if self.clip_weight and 'token_ids' not in data:
            raise InputError(
                'the data has no captions (token_ids): use image-text data, or clip_weight=0 to learn from '
                'images alone'
            )
        if self.training:
            self.check_batch(len(images))


def _freeze_unused(clip: CLIP) -> None:
    """Freeze what the image tower does not need: text tower, logit scale and the projections."""
    clip.text.requires_grad_(False)
    clip.logit_scale.requires_grad_(False)
    for name, parameter in clip.image.named_parameters():
        if f'{name}.'.startswith(tuple(f'{part.rstrip(".")}.' for part in _PROJECTIONS)):
            parameter.requires_grad_(False)
