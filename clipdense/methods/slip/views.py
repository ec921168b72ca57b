"""Augmented views of an image for self-supervision.  V: views, (H, W): pixels, S: side of the result.

All random numbers come from the generator of the sample, as in ``data.transforms``.  Hue and blur are those
of OpenCV: several times faster than Pillow's, which the release uses, and on average within a gray level.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from clipdense.data.batches import ImageLike, to_tensor
from clipdense.data.transforms import TrainCrop, Transform
from clipdense.registry import TRANSFORMS, build, entries
from clipdense.utils.errors import InputError


@TRANSFORMS.register_module()
class ImageViews:
    """V views of one image, (V, 3, S, S) uint8: ``transform`` of a dataset for ``SlipPretrainer``.

    Args:
        views: a transform of each view, or its config, by name; ``views=dict(first=..., second=...)``.
        caption: transform of the image that belongs to the caption, or its config; it comes first.  The
            string 'unchanged' keeps the image as it is.  None: there is none, for learning without captions.

    Raises:
        InputError: no views, an unknown word, or views of different sizes.
    """

    def __init__(
        self,
        views: Mapping[str, Any] | Sequence[Any],
        caption: Transform | dict | Literal['unchanged'] | None = None,
    ) -> None:
        if isinstance(caption, str) and caption != 'unchanged':
            raise InputError(f"caption must be a transform, 'unchanged' or None, got {caption!r}")
        parts: list[Any] = [] if caption is None else [caption]
        self.transforms = [
            part if isinstance(part, str) else build(part, TRANSFORMS)
            for part in (*parts, *entries(views, 'views'))
        ]
        if len(self.transforms) == len(parts):
            raise InputError('ImageViews needs at least one view')

    def __call__(self, image: ImageLike, rng: random.Random) -> Tensor:
        """An image of any size -> (V, 3, S, S) uint8; V counts the image of the caption."""
        pixels = to_tensor(image)
        made = [
            pixels if isinstance(transform, str) else transform(pixels, rng) for transform in self.transforms
        ]
        sizes = [tuple(one.shape[-2:]) for one in made]
        if len(set(sizes)) > 1:
            shown = ', '.join(f'{height} x {width}' for height, width in sizes)
            raise InputError(
                f'all views of an image must have one size, got {shown}: give them the same size'
            )
        return torch.stack(made)


@TRANSFORMS.register_module()
class SimClrView:
    """A random crop with random colors, sharpness and direction: one view of SimCLR, as SLIP released it.

    Args:
        size: S.
        scale: smallest and largest fraction of the image's area.
        jitter: largest change of brightness, contrast, saturation (as fractions) and hue (of the circle).
        jitter_probability: of changing the colors.
        gray: probability of a gray image.
        blur: probability of a Gaussian blur.
        blur_radius: smallest and largest standard deviation, in pixels of the result.
        flip: probability of a horizontal flip.
        solarize: probability of inverting the bright half of the values (second view of BYOL and MoCo v3).

    Raises:
        InputError: a probability, a fraction or a range that is none.

    Source: facebookresearch/SLIP ``datasets.py``; the values are those of MoCo v2, which are weaker than
    SimCLR's.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
        jitter_probability: float = 0.8,
        gray: float = 0.2,
        blur: float = 0.5,
        blur_radius: tuple[float, float] = (0.1, 2.0),
        flip: float = 0.5,
        solarize: float = 0.0,
    ) -> None:
        chances = {'jitter_probability': jitter_probability, 'gray': gray, 'blur': blur, 'solarize': solarize}
        for name, value in chances.items():
            if not 0 <= value <= 1:
                raise InputError(f'{name} must be a probability of 0 to 1, got {value!r}')
        if len(jitter) != 4 or min(jitter) < 0 or jitter[3] > 0.5:
            raise InputError(
                'jitter must be four numbers of at least 0 (brightness, contrast, saturation, hue up to '
                f'0.5), got {jitter!r}'
            )
        for name, (low, high) in {'scale': scale, 'blur_radius': blur_radius}.items():
            if not 0 < low <= high:
                raise InputError(
                    f'{name} must be two numbers above 0, the smaller first, got {(low, high)!r}'
                )
        self.crop = TrainCrop(size, scale, interpolation='bilinear')
        self.jitter, self.jitter_probability = tuple(jitter), jitter_probability
        self.gray, self.blur, self.blur_radius = gray, blur, tuple(blur_radius)
        self.solarize, self.flip = solarize, TrainCrop(size, flip=flip).flip

    def __call__(self, image: ImageLike, rng: random.Random) -> Tensor:
        """An image of any size -> (3, S, S) uint8."""
        pixels = self.crop(image, rng)
        if rng.random() < self.jitter_probability:
            pixels = jittered(pixels, self.jitter, rng)
        if rng.random() < self.gray:
            pixels = F.rgb_to_grayscale(pixels, num_output_channels=3)
        if rng.random() < self.blur:
            pixels = blurred(pixels, rng.uniform(*self.blur_radius))
        if rng.random() < self.solarize:
            pixels = F.solarize(pixels, 128)
        return pixels.flip(-1) if rng.random() < self.flip else pixels.contiguous()


def jittered(pixels: Tensor, jitter: Sequence[float], rng: random.Random) -> Tensor:
    """Brightness, contrast, saturation and hue changed by random amounts in random order."""
    order = list(range(len(_ADJUST)))
    rng.shuffle(order)
    for index in order:
        largest = jitter[index]
        if largest and index == _HUE:
            pixels = with_hue(pixels, rng.uniform(-largest, largest))
        elif largest:
            pixels = _ADJUST[index](pixels, rng.uniform(max(1 - largest, 0.0), 1 + largest))
    return pixels


def with_hue(pixels: Tensor, turn: float) -> Tensor:
    """(3, S, S) uint8 with the hue moved by a fraction of the circle, -0.5 to 0.5."""
    hsv = cv2.cvtColor(_rows(pixels), cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(int(turn * 256) % 256)  # wraps around, as the circle does
    return torch.from_numpy(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)).permute(2, 0, 1)


def blurred(pixels: Tensor, radius: float) -> Tensor:
    """(3, S, S) uint8 blurred by a Gaussian of this standard deviation; edges are repeated."""
    made = cv2.GaussianBlur(_rows(pixels), (0, 0), radius, borderType=cv2.BORDER_REPLICATE)
    return torch.from_numpy(made).permute(2, 0, 1)


def _rows(pixels: Tensor) -> np.ndarray:
    """(3, H, W) -> (H, W, 3)."""
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


_ADJUST: tuple[Callable[[Tensor, float], Tensor], ...] = (
    F.adjust_brightness,
    F.adjust_contrast,
    F.adjust_saturation,
    with_hue,
)
_HUE = 3
