"""Pre-training of GroupViT.  B: pairs, L: tokens, M: prompts of an image, G: groups, D: joint space."""

from __future__ import annotations

from functools import partial
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.checkpoint import load as load_clip
from clipdense.clip.losses import contrastive_loss, multi_label_loss, text_numbers
from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.engine.train_step import as_batch, pretrain_step
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import MODELS, build_module
from clipdense.tasks.model import Model
from clipdense.utils.dist import world_size
from clipdense.utils.errors import InputError

from .background import background_loss
from .checkpoint import load
from .encoder import GroupFeatures
from .model import GroupVit
from .start import start_from_clip

if TYPE_CHECKING:
    from mmengine.optim import OptimWrapper


@MODELS.register_module()
class GroupVitPretrainer(Model):
    """Contrastive pre-training with captions, and with prompts made of the nouns of the captions.

    Equal captions or phrases within a batch are false negatives.  In the released code each matches its own
    image only; with ``equal_texts_match`` they match all images that have them.

    Args:
        clip: the GroupViT to train, its config, or weights as ``checkpoint.load`` takes them.
        multi_label_weight: weight of the multi-label loss; 0 disables it, and the data needs no prompts.
        form: 'mean' (released code) or 'sum' (paper), see ``multi_label_loss``.
        equal_texts_match: see above.
        background_weight: weight of ``background_loss``; above 0 the model learns a background embedding.
        balance_weight: weight of a loss against the collapse to one group per image (not in the paper): minus
            the mutual information of tokens and groups, see ``assignment_information``.
        start: weights of a CLIP to initialize the GroupViT, see ``start_from_clip``.
        micro_batch: pairs per forward pass; the gradient is that of the whole batch, except for batch norm,
            whose statistics are per micro-batch.  None: the whole batch.
        gradient_checkpointing: recompute activations in the backward pass.

    Raises:
        InputError: a loss without parameters in the model, a negative weight, or an invalid argument.

    Source: arXiv 2202.11094, section 3.3; NVlabs/GroupViT models/multi_label_contrastive.py.
    """

    clip: GroupVit
    weights_argument = 'clip'

    def __init__(
        self,
        clip: nn.Module | dict | str,
        multi_label_weight: float = 1.0,
        form: Literal['mean', 'sum'] = 'mean',
        equal_texts_match: bool = False,
        background_weight: float = 0.0,
        balance_weight: float = 0.0,
        start: str | None = None,
        micro_batch: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        model: GroupVit = load(clip) if isinstance(clip, (str, Path)) else build_module(clip)
        super().__init__(data_preprocessor=ImagePreprocessor(model.preprocess.mean, model.preprocess.std))
        if min(multi_label_weight, background_weight, balance_weight) < 0:
            raise InputError(
                'weights of losses must be at least 0, got '
                f'multi_label_weight={multi_label_weight}, background_weight={background_weight}, '
                f'balance_weight={balance_weight}'
            )
        if micro_batch is not None and micro_batch < 1:
            raise InputError(f'micro_batch must be at least 1, got {micro_batch}')
        if form not in ('mean', 'sum'):
            raise InputError(f"form must be 'mean' or 'sum', got {form!r}")
        if multi_label_weight and model.multi_label_logit_scale is None:
            raise InputError(
                'the GroupViT has no logit scale for the multi-label loss: set multi_label_weight=0, or '
                'multi_label=True in its size'
            )
        if background_weight and model.background is None:
            raise InputError(
                'background_weight requires a GroupViT with a background embedding: set background=True in '
                'its config'
            )
        if model.background is not None:
            model.background.requires_grad_(background_weight > 0)
        if model.multi_label_logit_scale is not None:
            model.multi_label_logit_scale.requires_grad_(multi_label_weight > 0)
        if start is not None:
            start_from_clip(model, load_clip(start))
        self.clip = model
        self.multi_label_weight, self.form = multi_label_weight, form
        self.equal_texts_match = equal_texts_match
        self.background_weight, self.balance_weight = background_weight, balance_weight
        self.micro_batch = micro_batch
        model.set_gradient_checkpointing(gradient_checkpointing)

    @property
    def needs_prompts(self) -> bool:
        """Whether the data must have ``prompt_ids``."""
        return self.multi_label_weight > 0 or self.background_weight > 0

    def forward(
        self,
        images: Tensor,
        token_ids: Tensor,
        prompt_ids: Tensor | None = None,
        phrases: Tensor | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """(B, 3, H, W) normalized, (B, L), (B, M, L), (B, M) -> losses (mode 'loss') or embeddings."""
        data = as_batch(images=images, token_ids=token_ids, prompt_ids=prompt_ids, phrases=phrases)
        self._check(data)
        embeddings = self._encode(data)
        if mode == 'loss':
            return self.loss(*embeddings, **self._numbers(data))
        return embeddings[0], embeddings[1][:, 0]

    def loss(
        self,
        images: Tensor,
        texts: Tensor,
        groups: Tensor,
        information: Tensor,
        captions: Tensor | None = None,
        phrases: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses over the batch of all processes, weighted.

        Args:
            images: (B, D), unit norm, of this process.
            texts: (B, 1 + M, D), unit norm; the caption first, then the prompts.
            groups: (B, G, D), unit norm; not used without a background.
            information: (B,), see ``assignment_information``.
            captions, phrases: (B,), (B, M) numbers, equal for equal texts; None to ignore equal texts.
        """
        images, texts = at_least_fp32(images), at_least_fp32(texts)
        caption, prompts = texts[:, 0], texts[:, 1:]
        scale = self.clip.logit_scale.exp()
        if captions is None:
            losses = {'contrastive_loss': contrastive_loss(images, caption, scale)}
        else:
            losses = {
                'contrastive_loss': multi_label_loss(
                    images, caption[:, None], scale, phrases=captions[:, None]
                )
            }
        if self.multi_label_weight and self.clip.multi_label_logit_scale is not None:
            own_scale = self.clip.multi_label_logit_scale.exp()
            value = multi_label_loss(images, prompts, own_scale, self.form, phrases)
            losses['multi_label_loss'] = self.multi_label_weight * value
        if self.background_weight and self.clip.background is not None:
            background = F.normalize(self.clip.background, dim=-1)
            value = background_loss(at_least_fp32(groups), prompts, background, scale, phrases)
            losses['background_loss'] = self.background_weight * value
        if self.balance_weight:
            losses['balance_loss'] = -self.balance_weight * information.mean()
        return losses

    def check_batch(self, size: int, last: bool = False) -> None:
        """Batch norm in the projectors needs two pairs per forward pass in a single process.

        Raises:
            InputError: a batch or a micro-batch of one pair.
        """
        parts = -(-size // (self.micro_batch or max(size, 1)))
        if world_size() > 1 or (parts and size // parts >= 2):
            return
        found = f'a batch of {size} with micro_batch={self.micro_batch} leaves a remainder of one'
        found = found if parts > 1 else f'got a batch of {size}'
        found = f'the last batch of each epoch has {size}: set drop_last=True' if last else found
        raise InputError(f'batch norm in the projectors needs at least two pairs per forward pass: {found}')

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One optimizer step; the scales are clamped afterwards."""
        data = self.data_preprocessor(data, training=True)
        self._check(data)
        loss = partial(self.loss, **self._numbers(data))
        losses = pretrain_step(self, data, self._encode, loss, optim_wrapper)
        total = torch.stack(list(losses.values())).sum()
        return {'loss': total, **losses, 'logit_scale': self.clip.logit_scale.exp().detach()}

    def _encode(self, part: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Unit embeddings of images (B, D), texts (B, 1 + M, D) and groups (B, G, D); information (B,)."""
        ids = part['token_ids'][:, None]  # (B, 1, L)
        if self.needs_prompts:
            ids = torch.cat([ids, part['prompt_ids']], dim=1)
        different, places = ids.flatten(0, 1).unique(dim=0, return_inverse=True)  # prompts recur
        texts = F.normalize(self.clip.text.project(self.clip.text(different)[places]), dim=-1)
        texts = texts.unflatten(0, ids.shape[:2])  # (B, 1 + M, D)
        features = self.clip.image(part['images'])
        both = features.pooled[:, None]  # (B, 1, C)
        if self.background_weight:
            both = torch.cat([both, features.groups], dim=1)  # batch norm sees them together
        both = F.normalize(self.clip.image.project(both), dim=-1)
        return both[:, 0], texts, both[:, 1:], assignment_information(features)

    def _numbers(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Numbers of equal texts, if ``equal_texts_match``."""
        if not self.equal_texts_match:
            return {}
        numbers = {'captions': text_numbers(data['token_ids'])}
        if self.needs_prompts:
            phrases = data.get('phrases')
            numbers['phrases'] = text_numbers(data['prompt_ids']) if phrases is None else phrases
        return numbers

    def _check(self, data: dict[str, Tensor]) -> None:
        images, texts = len(data['images']), len(data['token_ids'])
        if images != texts:
            raise InputError(f'got {images} images and {texts} captions: each image needs one caption')
        if self.training:
            self.check_batch(images)
        if self.needs_prompts and 'prompt_ids' not in data:
            raise InputError(
                'the multi-label loss needs prompts: set tokenizer=dict(type=NounPrompts, ...) in the '
                'dataset, or set multi_label_weight=0'
            )


def assignment_information(features: GroupFeatures) -> Tensor:
    """Mutual information of tokens and groups, (B,), in 0 .. 1.

    It is the entropy of the mean assignment minus the mean entropy of the assignments of the tokens, divided
    by the logarithm of the number of groups, averaged over stages: high for groups of equal size and
    confident assignments.
    """
    found = [features.pooled.new_zeros(len(features.pooled))]
    for assignment in features.assignments:
        soft = assignment.soft  # (B, G, N)
        if soft.shape[1] > 1:
            sizes = _entropy(soft.mean(dim=-1), dim=1)  # (B,)
            found.append((sizes - _entropy(soft, dim=1).mean(dim=-1)) / log(soft.shape[1]))
    return torch.stack(found).sum(dim=0) / max(len(found) - 1, 1)


def _entropy(p: Tensor, dim: int) -> Tensor:
    return -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(dim=dim)
