"""CLIP: an image tower and a text tower with a joint embedding space.

B: images, K: texts, L: tokens, C: width, D: joint space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.registry import MODELS, build_module
from clipdense.utils.errors import InputError, nearest

from .dense import Tower, encode_dense
from .hf_text import HFTextTower
from .preprocess import Preprocess
from .resnet import ModifiedResNet
from .sizes import PUBLISHED, AnyTextSize, ClipSize, ImageSize, ResNetSize, TextSize, VitSize
from .text import TextTransformer
from .timm_tower import TimmImageTower
from .tokenizers import OpenAITokenizer
from .vit import VisionTransformer

MAX_LOGIT_SCALE = 100.0
TextTower = TextTransformer | HFTextTower


@MODELS.register_module()
class CLIP(nn.Module):
    """An image tower and a text tower with their projections, logit scale and logit bias.

    Args:
        image: an image tower or its config.
        text: a text tower or its config.
        logit_scale: initial value; the parameter stores its logarithm.
        logit_bias: initial value, added to the logits (-10 for SigLIP); None for no bias.
        preprocess: preprocessing of the images; OpenAI's at the image size of the tower by default.
        tokenizer: texts -> (K, L) int64 token ids; belongs to the weights.  OpenAI's by default.

    Attributes:
        unit_prompts: whether prompt embeddings are normalized before they are averaged.
    """

    unit_prompts = True

    def __init__(
        self,
        image: nn.Module | dict,
        text: nn.Module | dict,
        logit_scale: float = 1 / 0.07,
        logit_bias: float | None = None,
        preprocess: Preprocess | None = None,
        tokenizer: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        self.image: Tower = build_module(image)
        self.text: TextTower = build_module(text)
        self.logit_scale = nn.Parameter(torch.tensor(log(logit_scale)))
        self.logit_bias = None if logit_bias is None else nn.Parameter(torch.tensor(float(logit_bias)))
        self.preprocess = preprocess or Preprocess.named('openai', self.image.size.image_size)
        self.tokenizer = tokenizer or OpenAITokenizer(self.text.size.context_length)

    @property
    def visual(self) -> Tower:
        """Alias of ``image``, the name in open_clip."""
        return self.image

    @property
    def size(self) -> ClipSize:
        """The size that ``build_clip`` takes to build this model."""
        return ClipSize(self.image.size, self.text.size, self.logit_bias is not None)

    @property
    def config(self) -> dict[str, Any]:
        """Config that builds this model with new weights.

        Raises:
            InputError: a subclass, which ``build_clip`` does not build.
        """
        if type(self) is not CLIP:
            raise InputError(
                f'a {type(self).__name__} cannot be saved as a self-describing file; only CLIP itself can'
            )
        options = {key: value for key, value in self.image.config.items() if key not in ('type', 'size')}
        size, preprocess = self.size.to_dict(), self.preprocess.to_dict()
        return {'type': build_clip, 'size': size, 'preprocess': preprocess, **options}

    @property
    def embed_dim(self) -> int:
        """D, the width of the joint space."""
        return self.text.size.embed_dim

    def forward(self, images: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), (K, L) -> unit embeddings (B, D) and (K, D)."""
        return self.encode_image(images, normalize=True), self.encode_text(token_ids, normalize=True)

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """(B, 3, H, W), any H and W -> (B, D)."""
        embeddings = self.image.project(self.image.pooled(images))
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def encode_dense(self, images: Tensor, normalize: bool = False) -> Tensor:
        """(B, 3, H, W), any H and W -> pixel embeddings (B, D, h, w), one for each patch.

        A ViT: value path of the last block without residual, then the projection.  SigLIP: the same, with the
        value path of its query pool in place of the projection.  A ResNet: value and output projection of its
        attention pool.  A tower of timm: its head at each location.  See ``clip.dense.encode_dense``.
        """
        embeddings = encode_dense(self.image, images)
        return F.normalize(embeddings, dim=1) if normalize else embeddings

    def encode_text(self, token_ids: Tensor, normalize: bool = False) -> Tensor:
        """(K, L) -> (K, D)."""
        embeddings = self.text.project(self.text(token_ids))
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    def encode_prompts(self, embeddings: Tensor, eot: Tensor, deep: Sequence[Tensor] | None = None) -> Tensor:
        """Learned prompts: token embeddings (K, L, C), positions of end-of-text (K,) -> (K, D)."""
        return self.text.project(self.text.forward_embeddings(embeddings, eot, deep))

    def set_gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute activations in the backward pass to save memory, in both towers."""
        self.image.gradient_checkpointing = on
        self.text.gradient_checkpointing = on

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Clamp the scale to [1, 100], to be called after each training step (open_clip, SLIP)."""
        self.logit_scale.clamp_(0, log(MAX_LOGIT_SCALE))


@MODELS.register_module()
def build_clip(
    size: ClipSize | dict | str,
    preprocess: str | dict | Preprocess = 'openai',
    tokenizer: Callable[..., Any] | None = None,
    **image_options: Any,
) -> CLIP:
    """Build a CLIP with random weights.

    Args:
        size: a ``ClipSize``, its dict, or a published name such as 'ViT-B-16'.
        preprocess: preprocessing of the images, its dict, or a name of ``Preprocess.named``.
        tokenizer: texts -> (K, L) token ids; OpenAI's by default.
        image_options: ``patch_dropout``, ``drop_path``, ``position_mode``, ``antialias`` of the image tower.

    Raises:
        InputError: an unknown name.
    """
    if isinstance(size, str):
        if size not in PUBLISHED:
            raise InputError(
                f'unknown CLIP size {size!r}.{nearest(size, PUBLISHED)} `clipdense models` lists all models'
            )
        size = PUBLISHED[size]
    elif isinstance(size, dict):
        size = ClipSize.from_dict(size)
    if isinstance(preprocess, str):
        preprocess = Preprocess.named(preprocess, size.image.image_size)
    elif isinstance(preprocess, dict):
        preprocess = Preprocess.from_dict(preprocess)
    image, text = build_image_tower(size.image, **image_options), build_text_tower(size.text)
    start: dict[str, Any] = {'logit_scale': 10.0, 'logit_bias': -10.0} if size.logit_bias else {}
    return CLIP(image, text, **start, preprocess=preprocess, tokenizer=tokenizer)


def build_image_tower(size: ImageSize, **options: Any) -> Tower:
    """The image tower of a size with random weights; for ``options`` see ``build_clip``."""
    if isinstance(size, VitSize):
        return VisionTransformer(size, **options)
    if isinstance(size, ResNetSize):
        return ModifiedResNet(size, **options)
    return TimmImageTower(size, **options)


def build_text_tower(size: AnyTextSize) -> TextTower:
    """The text tower of a size with random weights."""
    return TextTransformer(size) if isinstance(size, TextSize) else HFTextTower(size)
