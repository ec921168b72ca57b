"""What the two segmenters of DenseCLIP share.

B: images, (H, W): pixels, (h, w): cells, D: joint space, K: classes, Q: queries, n: contexts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.clip.checkpoint import load
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import CLIP
from clipdense.clip.preprocess import STATISTICS
from clipdense.layers.padding import padded_size
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import build_module
from clipdense.structures import SegmentationSample, best_of_queries
from clipdense.tasks.labels import training_batch
from clipdense.tasks.mask_losses import pixel_cross_entropy
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError, refuse_unknown

from .backbones import build_stages
from .context_decoder import ContextDecoder
from .contexts import check_tower
from .fpn import resized

_GAMMA = 1e-4
_BACKBONE = {'image': None, 'taps': None, 'scales': None, 'locked': False}
_LOSS = {'ignore_index': 255, 'balance': 0.0, 'identity': 0.4}


class ContextAware(SegmentationModel):
    """Backbone, frozen text tower, learned contexts and context decoder.

    Args:
        clip: the CLIP: a model, its config, or weights as ``clipdense.load`` takes them.  Its image tower is
            fine-tuned, its text tower is frozen.
        backbone: ``image``: an image tower or its config, instead of the CLIP's; ``taps`` and ``scales``: see
            ``TransformerStages``; ``locked``: do not train the image tower.
        n_ctx: n, learned context tokens before each class name; 0 for none.
        decoder: arguments of ``ContextDecoder`` other than ``embed_dim``.
        temperature: divisor of the score map in its loss.
        loss: ``ignore_index`` (255), ``balance`` (0; see ``pixel_cross_entropy``) and ``identity`` (0.4),
            weight of the loss on the score map.
        statistics: normalization of images: 'openai', 'imagenet' or 'half'.
        slide: see ``SegmentationModel``.

    Raises:
        InputError: no image tower or one that does not fit, unknown options, or contexts for a text tower
            that cannot take them.
    """

    portable_name = 'denseclip'
    portable_types: Mapping[str, Any] = {}
    unused_keys: tuple[str, ...] = ()  # tensors of an official file that are not needed
    templates = 'name'
    method = 'denseclip'

    def __init__(
        self,
        clip: nn.Module | dict | str,
        backbone: Mapping[str, Any] | None,
        n_ctx: int,
        decoder: Mapping[str, Any] | None,
        temperature: float,
        loss: Mapping[str, Any] | None,
        statistics: str,
        slide: Slide | dict | None,
    ) -> None:
        refuse_unknown([statistics], STATISTICS, 'unknown statistics')
        super().__init__(*STATISTICS[statistics], slide=slide, logit_scale=1.0)
        self.backbone_options = _options(_BACKBONE, backbone, 'backbone')
        self.loss_options = _options(_LOSS, loss, 'loss')
        if not temperature > 0:
            raise InputError(f'temperature must be positive, got {temperature}')
        self.temperature = temperature
        model: Any = load(clip) if isinstance(clip, str) else build_module(clip)
        if not isinstance(model, CLIP | FrozenText):
            raise InputError(f'DenseCLIP needs a CLIP, got a {type(model).__name__}')
        tower = self.backbone_options['image']
        if tower is None and not isinstance(model, CLIP):
            raise InputError('no image tower: give a full CLIP, or backbone=dict(image=...)')
        self.clip = FrozenText.of(model)
        if tower is None:
            tower = model.image
        self.backbone = build_stages(tower, self.backbone_options['taps'], self.backbone_options['scales'])
        dim, width = self.backbone.tower.size.embed_dim, self.clip.embed_dim
        if dim != width:
            raise InputError(f'the image tower embeds in {dim} dimensions, the text tower in {width}')
        if self.backbone_options['locked']:
            self.backbone.tower.requires_grad_(False)
        self.contexts = _contexts(self.clip, n_ctx)
        self.context_decoder = ContextDecoder(dim, **dict(decoder or {}))
        self.gamma = nn.Parameter(torch.full((dim,), _GAMMA))

    @property
    def portable_clip(self) -> FrozenText:
        """The part of the CLIP that a self-describing file contains: its text tower."""
        return self.clip

    def portable_config(self, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Config for a self-describing file, with the image tower written out."""
        backbone = {**(cfg['model'].get('backbone') or {}), 'image': self.backbone.tower.config}
        return {'model': {**cfg['model'], 'backbone': backbone}}

    def train(self, mode: bool = True) -> ContextAware:
        """A locked image tower stays in evaluation mode."""
        super().train(mode)
        if self.backbone_options['locked']:
            self.backbone.tower.eval()
        return self

    def adapt_text(self, text: Tensor, pooled: Tensor, local: Tensor) -> Tensor:
        """Class embeddings (B, K, D), adapted to the images: t + gamma * decoder(t, image)."""
        return text + self.gamma * self.context_decoder(text, pooled, local)

    def to_image(self, logits: Tensor, sizes: Tensor) -> Tensor:
        """(B, K, h, w) of the padded images -> (B, K, H, W) of the images, at least in fp32."""
        height, width = sizes[0].tolist()
        padded = padded_size((height, width), self.backbone.stride)
        return resized(at_least_fp32(logits), padded)[..., :height, :width]

    def losses(self, logits: Tensor, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy of the result and, with its weight, of the score map over the temperature.

        Args:
            logits, scores: (B, Q, H, W) of the queries.
            labels: (B, H, W).
        """
        options = {name: self.loss_options[name] for name in ('ignore_index', 'balance')}
        found = {'loss_mask': pixel_cross_entropy(self._merged(logits), labels, **options)}
        if self.loss_options['identity']:
            identity = pixel_cross_entropy(self._merged(scores / self.temperature), labels, **options)
            found['loss_identity'] = self.loss_options['identity'] * identity
        return found

    def training_batch(
        self, images: Tensor | Sequence[Tensor], samples: Sequence[SegmentationSample]
    ) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and checked labels (B, H, W)."""
        self._text()  # a vocabulary is needed
        return training_batch(images, samples, self.num_classes, self.loss_options['ignore_index'])

    def _merged(self, logits: Tensor) -> Tensor:
        """(B, Q, H, W) -> (B, K, H, W): the maximum over the queries of each class."""
        if len(self.query_class) == self.num_classes:
            return logits
        return best_of_queries(logits, self.query_class, self.num_classes, dim=1)


def expanded(text: Tensor, batch: int) -> Tensor:
    """(K, D) or (B, K, D) -> (B, K, D)."""
    return text if text.ndim == 3 else text.expand(batch, -1, -1)


def _contexts(clip: FrozenText, count: int) -> nn.Parameter | None:
    if count < 0:
        raise InputError(f'n_ctx must be 0 or more, got {count}')
    if count == 0:
        return None
    check_tower(clip)
    if count > clip.text.size.context_length - 3:
        raise InputError(
            f'{count} learned contexts leave no room for a class name in a text tower of '
            f'{clip.text.size.context_length} tokens'
        )
    contexts = torch.empty(count, clip.text.size.width)
    return nn.Parameter(nn.init.trunc_normal_(contexts))


def _options(known: Mapping[str, Any], given: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    refuse_unknown(given or {}, known, f'{what} has no option')
    return {**known, **(given or {})}
