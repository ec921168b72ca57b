"""Images to square uint8 tensors.  (H, W): pixels, S: side of the result.

Datasets return uint8 images; the model normalizes them (``data/preprocessor.py``).  Random numbers are
drawn from a generator that the dataset seeds with (seed, epoch, sample), so that a resumed run gets the same
crops for any number of workers.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import exp, log, sqrt
from typing import Literal

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from clipdense.clip.preprocess import Preprocess, without_far_ends
from clipdense.registry import TRANSFORMS
from clipdense.utils.errors import InputError

from .batches import ImageLike, to_tensor

Transform = Callable[[ImageLike, random.Random], Tensor]


@TRANSFORMS.register_module()
class TrainCrop:
    """A random part of the image, resized to (S, S): the RandomResizedCrop that open_clip trains with.

    Resizing uses torch's uint8 kernels: several times faster than Pillow and within one gray level.

    Args:
        size: S.
        scale: smallest and largest fraction of the image's area.
        ratio: smallest and largest aspect ratio (width / height).
        interpolation: 'bicubic' or 'bilinear', antialiased.
        flip: probability of a horizontal flip; 0 for captions that mention left and right.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.9, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Literal['bicubic', 'bilinear'] = 'bicubic',
        flip: float = 0.0,
    ) -> None:
        if not 0 <= flip <= 1:
            raise InputError(f'flip must be a probability of 0 to 1, got {flip!r}')
        self.size, self.scale, self.ratio, self.flip = size, scale, ratio, flip
        self.interpolation = InterpolationMode(interpolation)

    def __call__(self, image: ImageLike, rng: random.Random) -> Tensor:
        """An image of any size -> (3, S, S) uint8."""
        pixels = to_tensor(image)
        top, left, height, width = self.window(pixels.shape[-2], pixels.shape[-1], rng)
        crop = _resized_crop(pixels, top, left, height, width, self.size, self.interpolation)
        return crop.flip(-1) if self.flip and rng.random() < self.flip else crop

    def window(self, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
        """Top, left, height, width of a crop: ten tries, then a center crop with a valid aspect ratio."""
        low, high = self.ratio
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            aspect = exp(rng.uniform(log(low), log(high)))
            w, h = round(sqrt(area * aspect)), round(sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return rng.randint(0, height - h), rng.randint(0, width - w), h, w
        w = min(width, max(1, round(height * high)))
        h = min(height, max(1, round(width / low)))
        return (height - h) // 2, (width - w) // 2, h, w


@TRANSFORMS.register_module()
class SquareCrop:
    """The largest square at a random position, resized to (S, S): OpenAI's only augmentation.

    Cropping comes before resizing, which saves resizing the pixels that are cut off.

    Args:
        size: S.
        interpolation: 'bicubic' or 'bilinear', antialiased.
    """

    def __init__(self, size: int, interpolation: Literal['bicubic', 'bilinear'] = 'bicubic') -> None:
        self.size = size
        self.interpolation = InterpolationMode(interpolation)

    def __call__(self, image: ImageLike, rng: random.Random) -> Tensor:
        """An image of any size -> (3, S, S) uint8."""
        pixels = to_tensor(image)
        height, width = pixels.shape[-2:]
        side = min(height, width)
        top, left = rng.randint(0, height - side), rng.randint(0, width - side)
        return _resized_crop(pixels, top, left, side, side, self.size, self.interpolation)


@TRANSFORMS.register_module()
class CenterCrop:
    """Evaluation transform: shorter side resized to S, then a center crop, like ``clip.preprocess``.

    Args:
        size: S.
        interpolation: 'bicubic' or 'bilinear', antialiased, or 'nearest'.
        resize: 'shortest', or 'squash' to ignore the aspect ratio (SigLIP).
    """

    def __init__(
        self,
        size: int,
        interpolation: Literal['bicubic', 'bilinear', 'nearest'] = 'bicubic',
        resize: Literal['shortest', 'squash'] = 'shortest',
    ) -> None:
        self.preprocess = Preprocess(size, interpolation=interpolation, resize=resize)

    @classmethod
    def of(cls, preprocess: Preprocess) -> CenterCrop:
        """The crop that a model's weights expect."""
        return cls(preprocess.image_size, preprocess.interpolation, preprocess.resize)

    def __call__(self, image: ImageLike, rng: random.Random | None = None) -> Tensor:
        """An image of any size -> (3, S, S) uint8; ``rng`` is ignored."""
        crops = self.preprocess.resize == 'shortest'
        if isinstance(image, Image.Image):
            image = without_far_ends(image, longest=8) if crops else image
            return self.preprocess.crop(image).contiguous()
        image = without_far_ends(image, longest=8) if crops else image
        size, mode = self.preprocess.image_size, InterpolationMode(self.preprocess.interpolation)
        if self.preprocess.resize == 'squash':
            return F.resize(image, [size, size], mode)
        return F.center_crop(F.resize(image, [size], mode), [size, size]).contiguous()


def _resized_crop(
    pixels: Tensor, top: int, left: int, height: int, width: int, size: int, interpolation: InterpolationMode
) -> Tensor:
    crop = F.resized_crop(pixels, top, left, height, width, [size, size], interpolation, antialias=True)
    return crop.contiguous()
