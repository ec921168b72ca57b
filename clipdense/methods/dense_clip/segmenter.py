"""A segmenter out of any CLIP, without training.

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
from clipdense.registry import MODELS, build_module
from clipdense.tasks.segmentation import EncodedImage, SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError

from .functions import DENSE_METHODS, cosines, find_dense_method
from .proxy import TimmProxy

_CELL = 32  # pixels of a ResNet's last stage


@MODELS.register_module()
class DenseCLIP(SegmentationModel):
    """Cosine of each patch with each class embedding; the method says what a patch's embedding is.

    Args:
        clip: any CLIP, its config, or weights as ``clipdense.load`` takes them.
        method: a name in ``functions.DENSE_METHODS``.
        slide: see ``SegmentationModel``; ``default_slide`` where left out.
        logit_scale, background_threshold, memory_budget: see ``SegmentationModel``.
        area_threshold, refiner: see ``SegmentationModel``.
        options: of the method: what stands after ``*`` in its function, such as ``{'std': 5.0}`` of naclip.
        proxy: the backbone that proxyclip looks through: a name or file as ``TimmProxy`` takes them, a module
            (B, 3, H, W) -> (B, C', h', w'), or its config.

    Raises:
        InputError: a method or option that is unknown, a method that needs a transformer or a proxy, or
            windows that the patches of tower or proxy do not fit.
    """

    clip: CLIP
    weights_argument = 'clip'  # it has no weights of its own to load

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
        if self.steps.needs_transformer and not isinstance(clip.image, VisionTransformer):
            able = sorted(name for name, known in DENSE_METHODS.items() if not known.needs_transformer)
            raise InputError(f'method {method!r} needs a transformer; a ResNet can use {", ".join(able)}')
        self.patch_size = getattr(clip.image.size, 'patch_size', _CELL)
        self.proxy = self._build_proxy(proxy)
        self._check_windows()

    def encode_image(self, image: Tensor) -> EncodedImage:
        """As ``SegmentationModel``; windows that were chosen since then are checked anew."""
        self._check_windows()
        return super().encode_image(image)

    def encode_pixels(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> unit embeddings (B, D, h, w), and what else the method's second half reads."""
        proxy = {'proxy': self.proxy} if self.steps.needs_proxy else {}
        found = self.steps.embed(self.clip.image, images, **proxy)
        if self.steps.read is None:
            return F.normalize(found, dim=1)
        embeddings, *others = found
        return F.normalize(embeddings, dim=1), *others

    def classify_pixels(self, features: Any, text: Tensor) -> Tensor:
        """What ``encode_pixels`` gave, (K, D) or (B, K, D) -> class scores (B, K, h, w), cosines mostly."""
        if self.steps.read is None:
            return cosines(features, text)
        return self.steps.read(self.clip.image, features, text)

    def window_bytes(self, height: int, width: int) -> int:
        """Roughly what a window takes in a transformer: its widest tokens, and three maps of attention."""
        if not isinstance(self.clip.image, VisionTransformer):
            return super().window_bytes(height, width)
        size = self.clip.image.size
        tokens = (height // size.patch_size) * (width // size.patch_size) + 1
        return 4 * tokens * (2 * size.mlp_width + 8 * size.width + 3 * size.num_heads * tokens)

    def _build_proxy(self, proxy: nn.Module | dict | str | None) -> nn.Module | None:
        if proxy is None and self.steps.needs_proxy:
            raise InputError(
                f'method {self.steps.name!r} needs a proxy: name a timm backbone, '
                "such as proxy='vit_base_patch8_224.dino' (--proxy)"
            )
        if isinstance(proxy, str):
            proxy = TimmProxy(proxy, *(getattr(self.clip.preprocess, name) for name in ('mean', 'std')))
        return None if proxy is None else build_module(proxy)

    def _check_windows(self) -> None:
        """Patches of tower and proxy must fit."""
        self.slide.check(self.patch_size)
        patch = getattr(self.proxy, 'patch_size', 1)
        if self.slide.window is not None and self.slide.window % patch:
            fits = self.slide.window // patch * patch or patch
            raise InputError(
                f"windows of {self.slide.window} pixels are no multiple of the proxy's patch of {patch}: "
                f'choose windows of {fits} or {fits + patch} pixels'
            )


def build(clip: CLIP, name: str, options: Mapping[str, Any]) -> DenseCLIP:
    """The training-free method ``name`` on a CLIP; ``options`` are those of the method table."""
    options = dict(options)
    proxy = options.pop('proxy', None)
    return DenseCLIP(clip, name, options=options, proxy=proxy or None)


def default_slide(clip: CLIP, short_side: int | None = None) -> Slide:
    """The SCLIP protocol in proportion: at 224 pixels, short side 336, windows of 224, stride 112."""
    side = clip.image.size.image_size
    return Slide(short_side=short_side or side * 3 // 2, window=side, stride=max(1, side // 2))
