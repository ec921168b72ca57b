"""The LSeg model.

B: images, (H, W): pixels, (h, w): cells of the pixel map, D: joint space, K: classes, Q: queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.checkpoint import load
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import CLIP
from clipdense.clip.preprocess import STATISTICS
from clipdense.clip.resnet import ModifiedResNet
from clipdense.clip.timm_tower import TimmImageTower
from clipdense.clip.vit import VisionTransformer
from clipdense.layers.padding import pad_to_multiple, padded_size
from clipdense.registry import MODELS, build_module
from clipdense.structures import SegmentationSample, best_of_queries
from clipdense.tasks.labels import training_batch
from clipdense.tasks.mask_losses import pixel_cross_entropy
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError

from .backbones import ResNetPyramid, StagePyramid, TransformerPyramid, load_pretrained
from .dpt import DPT
from .head import CosineHead
from .regularize import RegularizationBlock

_PYRAMIDS: Mapping[type, tuple[str, type]] = {  # image tower -> argument and class of its pyramid
    ModifiedResNet: ('resnet', ResNetPyramid),
    TimmImageTower: ('tower', StagePyramid),
    VisionTransformer: ('vit', TransformerPyramid),
}
PixelMap = tuple[Tensor, Tensor]  # stored features (B, ., h, w), (B, 2) sizes of the images in pixels


@MODELS.register_module()
class LSeg(SegmentationModel):
    """Pixel embeddings from a backbone and a DPT decoder, compared with class embeddings.

    Args:
        backbone: a module with four output maps (see ``backbones``), or its config.  If None, or without a
            network, the image tower of ``clip`` is fine-tuned.
        clip: the CLIP whose frozen text tower embeds the class names: a model, its config, or weights as
            ``clipdense.load`` takes them.  None if embeddings come from a file (``StoredEmbeddings``).
        embed_dim: D; required without a text tower.
        width: channels of the decoder.
        block: spatial regularization of the logits, see ``regularize``; None for none.
        temperature: divisor of the cosines; fixed, as in the official code.
        loss: arguments of ``pixel_cross_entropy``: ``dict(ignore_index=255, balance=0.0)``.
        statistics: normalization of images: 'half', 'imagenet' or 'openai'.
        slide: see ``SegmentationModel``.
        lock_backbone: train the decoder only.

    Raises:
        InputError: neither a text tower nor ``embed_dim``.
    """

    portable_name = 'lseg'
    portable_types: Mapping[str, Any] = {}  # no classes of other packages
    unused_keys: tuple[str, ...] = ()  # tensors of an official file that the official code does not use
    patch_size = 1  # images are padded
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
            raise InputError('LSeg needs clip to embed class names, or embed_dim for embeddings from a file')
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
        """The part of the CLIP that a self-describing file contains: its text tower."""
        return self.clip

    def portable_config(self, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Config for a self-describing file; an image tower taken from the CLIP becomes part of it."""
        backbone = cfg['model'].get('backbone') or {}
        if not _names_network(backbone):
            key = next(key for key, kind in _PYRAMIDS.values() if isinstance(self.backbone, kind))
            tower = getattr(self.backbone, key)
            backbone = {**backbone, 'type': type(self.backbone), key: tower.config}
        return {'model': {**cfg['model'], 'backbone': backbone}}

    def init_weights(self) -> None:
        """Load the pre-trained weights of the backbone; called before training.

        All other weights are initialized by constructors.  MMEngine's own method would reset timm models,
        which have a method of this name.
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
        return self._keep(self.backbone(pad_to_multiple(images, self.backbone.stride)), images)

    def embed_pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> unit embeddings (B, D, h, w) of the padded images, at stride 2."""
        return self.pixel_embeddings(self.encode_pixels(images))

    def classify_pixels(self, features: PixelMap, text: Tensor) -> Tensor:
        """A pixel map, (K, D) or (B, K, D) -> logits (B, K, H, W) of the images without padding."""
        kept, sizes = features
        return self.to_pixels(self.cell_logits(kept, text), sizes)

    def cell_logits(self, kept: Tensor, text: Tensor) -> Tensor:
        """Stored features, (K, D) or (B, K, D) -> logits (B, K, h, w)."""
        logits = self.project.logits(kept, text / self.temperature)
        if self.block is not None:
            logits = self.block(logits.to(self.project.weight.dtype)).to(logits.dtype)
        return logits

    def to_pixels(self, logits: Tensor, sizes: Tensor) -> Tensor:
        """(B, K, h, w) of the padded images -> (B, K, H, W) without padding."""
        height, width = sizes[0].tolist()
        return self.fit_scores(logits, (height, width))

    def fit_scores(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores of the padded image (B, K, h, w) -> of the image (B, K, H, W)."""
        padded = padded_size(size, self.backbone.stride)
        scores = F.interpolate(scores, padded, mode='bilinear', align_corners=True)
        return scores[..., : size[0], : size[1]]

    def embedding_extent(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size with its padding."""
        return padded_size(size, self.backbone.stride)

    @property
    def cosine_scale(self) -> float:
        """The factor on cosines."""
        return 1 / self.temperature

    def pixel_embeddings(self, features: PixelMap) -> Tensor:
        """A pixel map -> unit embeddings (B, D, h, w) of the padded images, at stride 2."""
        return self.project.embeddings(features[0])

    def with_pixel_embeddings(self, features: PixelMap, embeddings: Tensor) -> PixelMap:
        """A pixel map with other embeddings, which are then stored in full."""
        return embeddings, features[1]

    def _keep(self, maps: Sequence[Tensor], images: Tensor) -> PixelMap:
        size = torch.tensor([images.shape[-2:]]).expand(len(images), 2)
        return self.project.keep(self.decoder(maps)), size

    def loss(
        self, images: Tensor | Sequence[Tensor], samples: Sequence[SegmentationSample]
    ) -> dict[str, Tensor]:
        """Images of one size and their masks -> ``{'loss': cross entropy}``.

        Raises:
            InputError: images of different sizes, samples without a mask, or labels that are not classes.
        """
        images, labels = self.training_batch(images, samples)
        logits = self.merge_queries(self.pixel_logits(images, self._text()))
        return {'loss': pixel_cross_entropy(logits, labels, **self.loss_options)}

    def training_batch(
        self, images: Tensor | Sequence[Tensor], samples: Sequence[SegmentationSample]
    ) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and checked labels (B, H, W), on the images' device."""
        return training_batch(images, samples, self.num_labels, self.ignore_index)

    @property
    def ignore_index(self) -> int:
        """Label of pixels that are ignored."""
        return self.loss_options.get('ignore_index', 255)

    @property
    def num_labels(self) -> int:
        """Number of classes of the masks."""
        self._text()
        return self.num_classes

    def merge_queries(self, logits: Tensor) -> Tensor:
        """(B, Q, H, W) -> (B, K, H, W): the maximum over the queries of each class."""
        if len(self.query_class) == self.num_classes:  # then they are in class order
            return logits
        return best_of_queries(logits, self.query_class, self.num_classes, dim=1)


def _names_network(backbone: Mapping[str, Any] | None) -> bool:
    return not {key for key, _ in _PYRAMIDS.values()}.isdisjoint(backbone or {})


def _with_network(backbone: nn.Module | dict | None, clip: Any) -> nn.Module | dict:
    """The backbone; without a network it uses the CLIP's image tower, in the pyramid for its type.

    Raises:
        InputError: no config, neither a network nor a CLIP, or a pyramid for another type of tower.
    """
    if not isinstance(backbone, (nn.Module, Mapping, NoneType)):
        raise InputError(f'backbone must be a config such as dict(type=StagePyramid), got {backbone!r}')
    if isinstance(backbone, nn.Module) or _names_network(backbone):
        return backbone or {}
    if not isinstance(clip, CLIP):
        raise InputError('the backbone has no network: set vit, resnet or tower, or pass a full CLIP as clip')
    key, kind = _PYRAMIDS[type(clip.image)]
    asked = (backbone or {}).get('type', kind)  # a string in a config written by a training run
    if getattr(asked, '__name__', str(asked).rpartition('.')[2]) != kind.__name__:
        raise InputError(
            f'the image tower of the CLIP is a {type(clip.image).__name__}: use the backbone {kind.__name__}'
        )
    return {**(backbone or {}), 'type': kind, key: clip.image}
