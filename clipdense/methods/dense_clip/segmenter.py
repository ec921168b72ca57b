"""Training-free segmentation with any CLIP.

B: windows, (h, w): patch grid, C: width, d: width of a head, D: joint space, K: classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.checkpoint import load
from clipdense.clip.model import CLIP
from clipdense.clip.vit import VisionTransformer
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import MODELS, build_module
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError

from .functions import DENSE_METHODS, cosines, find_dense_method
from .proxy import TimmProxy


@MODELS.register_module()
class DenseCLIP(SegmentationModel):
    """Cosine similarity of pixel embeddings and class embeddings; the method computes the pixel embeddings.

    Args:
        clip: any CLIP, its config, or weights as ``clipdense.load`` takes them.
        method: a name in ``functions.DENSE_METHODS``.
        slide: see ``SegmentationModel``; ``default_slide`` by default.
        logit_scale, background_threshold, memory_budget: see ``SegmentationModel``.
        area_threshold, refiner: see ``SegmentationModel``.
        options: options of the method (keyword-only arguments of its function): ``{'std': 5.0}`` for naclip.
        proxy: the backbone of proxyclip: a name or file as ``TimmProxy`` takes them, a module
            (B, 3, H, W) -> (B, C', h', w'), or its config.

    Raises:
        InputError: an unknown method or option, a method that needs a transformer or a proxy, or a window
            size that is not a multiple of the patch size of the tower or the proxy.
    """

    clip: CLIP
    weights_argument = 'clip'  # all weights are those of the CLIP

    def __init__(
        self,
        clip: nn.Module | dict | str,
        method: str = 'maskclip',
        slide: Slide | dict | None = None,
        logit_scale: float = 40.0,
        background_threshold: float = 0.0,
        memory_budget: int = 256 << 20,
        area_threshold: float = 0.0,
        refiner: nn.Module | dict | None = None,
        options: Mapping[str, Any] | None = None,
        proxy: nn.Module | dict | str | None = None,
    ) -> None:
        clip = load(clip) if isinstance(clip, str) else build_module(clip)
        mean, std = clip.preprocess.mean, clip.preprocess.std
        slide = default_slide(clip) if slide is None else slide
        super().__init__(
            mean, std, slide, logit_scale, background_threshold, memory_budget, area_threshold, refiner
        )
        self.clip = clip
        self.method, self.steps = method, find_dense_method(method, options)
        self.joint_over_classes = self.joint_over_classes or self.steps.read is not None
        kind = clip.image.kind
        if kind not in self.steps.towers:
            able = sorted(name for name, known in DENSE_METHODS.items() if kind in known.towers)
            raise InputError(
                f'method {method!r} does not work on the image tower {type(clip.image).__name__}: '
                f'use one of {", ".join(able)}'
            )
        self.patch_size = clip.image.patch_size
        self.proxy = self._build_proxy(proxy)
        self.check_windows()

    def encode_pixels(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> unit embeddings (B, D, h, w), and further inputs of the method's ``read``."""
        proxy = {'proxy': self.proxy} if self.steps.needs_proxy else {}
        found = self.steps.embed(self.clip.image, images, **proxy)
        if self.steps.read is None:
            return F.normalize(at_least_fp32(found), dim=1)
        embeddings, *others = found
        return F.normalize(at_least_fp32(embeddings), dim=1), *others

    def classify_pixels(self, features: Any, text: Tensor) -> Tensor:
        """Output of ``encode_pixels``, (K, D) or (B, K, D) -> class scores (B, K, h, w), usually cosines."""
        if self.steps.read is None:
            return cosines(features, text)
        return self.steps.read(self.clip.image, features, text)

    @property
    def embedding_source(self) -> CLIP:
        """The CLIP, whose weights are all that embeds pixels."""
        return self.clip

    def pixel_embeddings(self, features: Any) -> Tensor:
        """Output of ``encode_pixels`` -> unit embeddings (B, D, h, w)."""
        return features if self.steps.read is None else features[0]

    def with_pixel_embeddings(self, features: Any, embeddings: Tensor) -> Any:
        """Output of ``encode_pixels`` with other pixel embeddings."""
        return embeddings if self.steps.read is None else (embeddings, *features[1:])

    def window_bytes(self, height: int, width: int) -> int:
        """Estimated memory of a window in a transformer: its widest tokens and three attention maps."""
        if not isinstance(self.clip.image, VisionTransformer):
            return super().window_bytes(height, width)
        size = self.clip.image.size
        tokens = (height // size.patch_size) * (width // size.patch_size) + self.clip.image.prefix
        return 4 * tokens * (2 * size.mlp_width + 8 * size.width + 3 * size.num_heads * tokens)

    def _build_proxy(self, proxy: nn.Module | dict | str | None) -> nn.Module | None:
        if proxy is None and self.steps.needs_proxy:
            raise InputError(
                f'method {self.steps.name!r} needs a proxy backbone: pass the name of a timm model, such as '
                "proxy='vit_base_patch8_224.dino' (segment: -o proxy=NAME; bench: -o proxyclip.proxy=NAME)"
            )
        if isinstance(proxy, str):
            proxy = TimmProxy(proxy, *(getattr(self.clip.preprocess, name) for name in ('mean', 'std')))
        return None if proxy is None else build_module(proxy)

    def check_windows(self) -> None:
        """Check that the window size is a multiple of the patch sizes of tower and proxy."""
        super().check_windows()
        patch = getattr(self.proxy, 'patch_size', 1)
        if self.slide.window is not None and self.slide.window % patch:
            fits = self.slide.window // patch * patch or patch
            raise InputError(
                f'the window size {self.slide.window} is not a multiple of the patch size {patch} of the '
                f'proxy: use {fits} or {fits + patch}'
            )


def build(clip: CLIP, name: str, options: Mapping[str, Any]) -> DenseCLIP:
    """A segmenter that applies the training-free method ``name`` to a CLIP, with options of the method."""
    options = dict(options)
    proxy = options.pop('proxy', None)
    return DenseCLIP(clip, name, options=options, proxy=proxy or None)


def default_slide(clip: CLIP, short_side: int | None = None) -> Slide:
    """SCLIP's protocol scaled to the image size: for 224 pixels short side 336, window 224, stride 112.

    A convolutional tower of timm has no positions, which windows serve: it takes the whole image, with a
    short side of twice the image size (FC-CLIP, arXiv 2308.02487).
    """
    side = clip.image.size.image_size
    if not getattr(clip.image, 'transformer', True):
        return Slide(short_side=short_side or 2 * side)
    return Slide(short_side=short_side or side * 3 // 2, window=side, stride=max(1, side // 2))
