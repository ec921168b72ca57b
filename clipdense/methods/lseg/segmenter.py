"""Words for pixels.

B: images, (H, W): pixels, (h, w): cells of the pixel map, D: joint space, K: classes, Q: queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.checkpoint import load
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import CLIP
from clipdense.clip.preprocess import STATISTICS
from clipdense.clip.resnet import ModifiedResNet
from clipdense.registry import MODELS, build_module
from clipdense.structures import SegmentationSample, best_of_queries
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError

from .backbones import ResNetPyramid, TransformerPyramid, load_pretrained
from .dpt import DPT
from .head import CosineHead
from .losses import check_labels, pixel_cross_entropy
from .regularize import RegularizationBlock

PixelMap = tuple[Tensor, Tensor]  # what the head keeps (B, ., h, w), (B, 2) sizes of the images in pixels


@MODELS.register_module()
class LSeg(SegmentationModel):
    """Pixel embeddings from an image network and a DPT decoder, compared with embedded words.

    Args:
        backbone: gives four maps, see ``backbones``; a module or its config.  Left out, or where it names no
            network, the CLIP's own image tower is fine-tuned.
        clip: whose frozen text tower embeds the words: a model, its config, or weights as ``clipdense.load``
            takes them.  None where embeddings come from a file (``StoredEmbeddings``).
        embed_dim: D, where there is no text tower to say it.
        width: channels of the decoder.
        block: spatial regularisation of the logits, see ``regularize``; None for none.
        temperature: divisor of the cosines; fixed, as in the release.
        loss: arguments of ``pixel_cross_entropy``: ``dict(ignore_index=255, balance=0.0)``.
        statistics: 'half', 'imagenet' or 'openai': what the backbone wants of its images.
        slide: see ``SegmentationModel``.
        lock_backbone: train the decoder alone.

    Raises:
        InputError: neither a text tower nor ``embed_dim``.
    """

    portable_name = 'lseg'
    portable_types: Mapping[str, Any] = {}  # nothing but ours
    unused_keys: tuple[str, ...] = ()  # of an official file: what the release does not use
    patch_size = 1  # smaller images are padded
    templates = 'name'
    method = 'lseg'

    def __init__(
        self,
        backbone: nn.Module | dict | None = None,
        clip: nn.Module | dict | str | None = None,
        embed_dim: int | None = None,
        width: int = 256,
        block: RegularizationBlock | dict | None = None,
        temperature: float = 0.07,
        loss: dict[str, Any] | None = None,
        statistics: str = 'half',
        slide: Slide | dict | None = None,
        lock_backbone: bool = False,
    ) -> None:
        super().__init__(*STATISTICS[statistics], slide=slide, logit_scale=1.0)
        model = load(clip) if isinstance(clip, str) else None if clip is None else build_module(clip)
        self.clip = FrozenText.of(model) if isinstance(model, CLIP) else model
        self.backbone = build_module(_with_network(backbone, model))
        dim = embed_dim if self.clip is None else self.clip.embed_dim
        if dim is None:
            raise InputError('LSeg needs a clip for its words, or embed_dim and a file of embeddings')
        self.decoder = DPT(self.backbone.channels, width)
        self.project: Any = CosineHead(width, dim)
        self.block = None if block is None else build_module(block)
        self.joint_over_classes = bool(getattr(self.block, 'joint', False))
        self.temperature = temperature
        self.loss_options = dict(loss or {})
        self.lock_backbone = lock_backbone
        if lock_backbone:
            self.backbone.requires_grad_(False)

    @property
    def portable_clip(self) -> FrozenText | None:
        """What a self-describing file holds of the CLIP: its text tower."""
        return self.clip

    def portable_config(self, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """The config of a run that built this model, without the CLIP that lent its image tower."""
        backbone = cfg['model'].get('backbone') or {}
        if not _names_network(backbone):
            key = 'vit' if isinstance(self.backbone, TransformerPyramid) else 'resnet'
            tower = getattr(self.backbone, key)
            backbone = {**backbone, 'type': type(self.backbone), key: tower.config}
        return {'model': {**cfg['model'], 'backbone': backbone}}

    def init_weights(self) -> None:
        """Called before training: fetches what the backbone starts from.

        Constructors have set every other weight.  MMEngine's own method would reset networks of timm, which
        have a method of this name.
        """
        load_pretrained(self.backbone)

    def train(self, mode: bool = True) -> LSeg:
        """A locked backbone stays in evaluation mode."""
        super().train(mode)
        if self.lock_backbone:
            self.backbone.eval()
        return self

    def encode_pixels(self, images: Tensor) -> PixelMap:
        """(B, 3, H, W) of any size -> maps of the padded images, and the sizes of the images."""
        size = torch.tensor([images.shape[-2:]]).expand(len(images), 2)
        maps = self.backbone(pad_to_multiple(images, self.backbone.stride))
        features = self.decoder(maps)  # (B, C, h, w)
        return self.project.keep(features), size

    def embed_pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> unit embeddings (B, D, h, w) of the padded images, a cell for 2 x 2 pixels."""
        return self.project.embeddings(self.encode_pixels(images)[0])

    def classify_pixels(self, features: PixelMap, text: Tensor) -> Tensor:
        """A pixel map, (K, D) or (B, K, D) -> logits (B, K, H, W) of the images without their padding."""
        kept, sizes = features
        logits = self.project.logits(kept, text / self.temperature)  # (B, K, h, w)
        if self.block is not None:
            logits = self.block(logits)
        height, width = sizes[0].tolist()
        padded = padded_size((height, width), self.backbone.stride)
        logits = F.interpolate(logits, padded, mode='bilinear', align_corners=True)
        return logits[..., :height, :width]

    def loss(
        self, images: Tensor | Sequence[Tensor], samples: Sequence[SegmentationSample]
    ) -> dict[str, Tensor]:
        """Images of one size and their masks -> ``{'loss': cross entropy}``.

        Raises:
            InputError: images of several sizes, samples without a mask, or labels that are no class.
        """
        images, labels = self.training_batch(images, samples)
        logits = self.merge_queries(self.pixel_logits(images, self._text()))
        return {'loss': pixel_cross_entropy(logits, labels, **self.loss_options)}

    def training_batch(
        self, images: Tensor | Sequence[Tensor], samples: Sequence[SegmentationSample]
    ) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and checked labels (B, H, W), on the images' device."""
        if not isinstance(images, Tensor):
            raise InputError('images of a training batch differ in size: crop them (SegmentationCrops)')
        masks = []
        for sample in samples:
            if sample.mask is None:
                raise InputError(f'{sample.image_path or "an image"} has no mask to learn from')
            check_labels(sample.mask, self.num_labels, self.ignore_index, sample.image_path)
            masks.append(sample.mask)
        return images, torch.stack(masks).to(images.device)

    @property
    def ignore_index(self) -> int:
        """Label of pixels that do not count."""
        return self.loss_options.get('ignore_index', 255)

    @property
    def num_labels(self) -> int:
        """How many values a mask may have."""
        self._text()
        return self.num_classes

    def merge_queries(self, logits: Tensor) -> Tensor:
        """(B, Q, H, W) -> (B, K, H, W): the best query of each class."""
        if len(self.query_class) == self.num_classes:  # then they are in class order
            return logits
        return best_of_queries(logits, self.query_class, self.num_classes, dim=1)


def padded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The next multiples."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Zeros, the mean of normalized images, to the right and below."""
    height, width = images.shape[-2:]
    bottom, right = padded_size((height, width), multiple)
    return (
        F.pad(images, (0, right - width, 0, bottom - height))
        if (bottom, right) != (height, width)
        else images
    )


def _names_network(backbone: Mapping[str, Any] | None) -> bool:
    return not {'vit', 'resnet'}.isdisjoint(backbone or {})


def _with_network(backbone: nn.Module | dict | None, clip: Any) -> nn.Module | dict:
    """A backbone that names no network takes the CLIP's image tower, in the pyramid that fits it."""
    if isinstance(backbone, nn.Module) or _names_network(backbone):
        return backbone or {}
    if not isinstance(clip, CLIP):
        raise InputError('the backbone names no network, and there is no CLIP to lend its image tower')
    convolutional = isinstance(clip.image, ModifiedResNet)
    key, kind = ('resnet', ResNetPyramid) if convolutional else ('vit', TransformerPyramid)
    asked = (backbone or {}).get('type', kind)  # text in a config that a run has left
    if getattr(asked, '__name__', str(asked).rpartition('.')[2]) != kind.__name__:
        raise InputError(
            f"the CLIP's image tower is a {type(clip.image).__name__}: it needs a {kind.__name__}"
        )
    return {**(backbone or {}), 'type': kind, key: clip.image}
