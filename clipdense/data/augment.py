"""Strong augmentation for training from scratch.  (H, W): pixels, S: side of the result.

All random numbers come from the generator of the sample, as in ``transforms``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import exp, log, sqrt
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from clipdense.clip.preprocess import STATISTICS
from clipdense.registry import TRANSFORMS
from clipdense.utils.errors import refuse_unknown

from .batches import ImageLike
from .transforms import TrainCrop

_GRAY = [124.0, 116.0, 104.0]  # ImageNet's mean, fill value of geometric operations
_FULL = 10.0  # the largest magnitude

Op = Callable[[Tensor, float, random.Random], Tensor]


@TRANSFORMS.register_module()
class StrongAugment:
    """DeiT's augmentation: random crop and flip, random operations, and random erasing.

    Args:
        size: S.
        scale: smallest and largest fraction of the image's area.
        interpolation: of the crop, 'bilinear' or 'bicubic'.
        operations: number of random operations, each applied with probability 0.5.
        magnitude: of the operations, 0 to 10; drawn from a normal distribution, this mean, deviation 0.5.
        flip: probability of a horizontal flip; 0 for captions that mention left and right.
        erase: probability that a rectangle is replaced by noise.
        among: names of ``OPERATIONS`` that are drawn, also repeatedly; ``DEIT`` by default.
        probability: that a drawn operation is applied.

    Raises:
        InputError: an unknown name.

    Source: DeiT (arXiv 2012.12877), table 9; the operations of timm's ``rand-m9-mstd0.5-inc1``.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        interpolation: Literal['bicubic', 'bilinear'] = 'bilinear',
        operations: int = 2,
        magnitude: float = 9.0,
        flip: float = 0.5,
        erase: float = 0.25,
        among: Sequence[str] | None = None,
        probability: float = 0.5,
    ) -> None:
        self.crop = TrainCrop(size, scale, interpolation=interpolation)
        self.operations, self.magnitude = operations, magnitude
        self.flip, self.erase = flip, erase
        self.among, self.probability = list(DEIT if among is None else among), probability
        refuse_unknown(self.among, OPERATIONS, 'StrongAugment has no operation')

    def __call__(self, image: ImageLike, rng: random.Random) -> Tensor:
        """An image of any size -> (3, S, S) uint8."""
        pixels = self.crop(image, rng)
        if rng.random() < self.flip:
            pixels = pixels.flip(-1)
        for name in rng.choices(self.among, k=self.operations):
            if rng.random() < self.probability:
                strength = min(max(rng.gauss(self.magnitude, 0.5), 0.0), _FULL) / _FULL
                pixels = OPERATIONS[name](pixels, strength, rng)
        if rng.random() < self.erase:
            pixels = erase(pixels, rng)
        return pixels.contiguous()


def erase(pixels: Tensor, rng: random.Random) -> Tensor:
    """(3, S, S) with a rectangle of 2 % to 33 % of the area replaced by normal noise."""
    height, width = pixels.shape[-2:]
    for _ in range(10):
        area = height * width * rng.uniform(0.02, 1 / 3)
        aspect = exp(rng.uniform(log(0.3), log(1 / 0.3)))
        h, w = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if h < height and w < width:
            top, left = rng.randint(0, height - h), rng.randint(0, width - w)
            generator = torch.Generator().manual_seed(rng.getrandbits(62))
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in STATISTICS['imagenet'])
            noise = (
                torch.randn(3, h, w, generator=generator) * std + mean
            )  # standard normal after normalization
            pixels = pixels.clone()
            pixels[:, top : top + h, left : left + w] = noise.mul(255).clamp(0, 255).to(torch.uint8)
            break
    return pixels


def _either(value: float, rng: random.Random) -> float:
    return value if rng.random() < 0.5 else -value


def _enhance(adjust: Callable[[Tensor, float], Tensor]) -> Op:
    return lambda pixels, strength, rng: adjust(pixels, 1 + _either(0.9 * strength, rng))


def _affine(pixels: Tensor, angle: float, shift: tuple[float, float], shear: tuple[float, float]) -> Tensor:
    height, width = pixels.shape[-2:]
    moved = [round(shift[0] * width), round(shift[1] * height)]
    return F.affine(
        pixels, angle, moved, 1.0, list(shear), interpolation=InterpolationMode.BILINEAR, fill=_GRAY
    )


def _shear(axis: int) -> Op:
    def operation(pixels: Tensor, strength: float, rng: random.Random) -> Tensor:
        degrees = _either(16.7 * strength, rng)  # a slope of 0.3
        return _affine(pixels, 0.0, (0.0, 0.0), (degrees, 0.0) if axis == 0 else (0.0, degrees))

    return operation


def _shift(axis: int) -> Op:
    def operation(pixels: Tensor, strength: float, rng: random.Random) -> Tensor:
        share = _either(0.45 * strength, rng)
        return _affine(pixels, 0.0, (share, 0.0) if axis == 0 else (0.0, share), (0.0, 0.0))

    return operation


def _brighten_dark(pixels: Tensor, strength: float, rng: random.Random) -> Tensor:
    brighter = (pixels.int() + round(110 * strength)).clamp(max=255).to(torch.uint8)
    return torch.where(pixels < 128, brighter, pixels)


OPERATIONS: dict[str, Op] = {
    'identity': lambda pixels, strength, rng: pixels,
    'autocontrast': lambda pixels, strength, rng: F.autocontrast(pixels),
    'equalize': lambda pixels, strength, rng: F.equalize(pixels),
    'invert': lambda pixels, strength, rng: F.invert(pixels),
    'rotate': lambda pixels, strength, rng: _affine(
        pixels, _either(30 * strength, rng), (0.0, 0.0), (0.0, 0.0)
    ),
    'posterize': lambda pixels, strength, rng: F.posterize(pixels, 4 - int(4 * strength)),
    'solarize': lambda pixels, strength, rng: F.solarize(pixels, min(255, 256 - int(256 * strength))),
    'solarize_add': _brighten_dark,
    'color': _enhance(F.adjust_saturation),
    'contrast': _enhance(F.adjust_contrast),
    'brightness': _enhance(F.adjust_brightness),
    'sharpness': _enhance(F.adjust_sharpness),
    'shear_x': _shear(0),
    'shear_y': _shear(1),
    'translate_x': _shift(0),
    'translate_y': _shift(1),
}
DEIT = [name for name in OPERATIONS if name != 'identity']  # those of timm's rand-m9-mstd0.5-inc1
