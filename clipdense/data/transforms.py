"""Images to square uint8 tensors.  (H, W): pixels, S: side of the result.

Datasets return uint8 images; the model normalizes them (``data/preprocessor.py``).  Random numbers are
drawn from a generator that the dataset seeds with (seed, epoch, sample), so that a resumed run gets the same
crops for any number of workers.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import exp, log, sqrt
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from clipdense.clip.preprocess import Preprocess, without_far_ends
from clipdense.registry import TRANSFORMS
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_pixels

from .batches import ImageLike, to_tensor

Transform = Callable[[ImageLike, random.Random], Tensor]


class RandomCrop(ABC):
    """A random window of the image, resized to (S, S).

    Resizing uses torch's uint8 kernels: several times faster than Pillow and within one gray level.

    Args:
        size: S.
        interpolation: 'bicubic' or 'bilinear', antialiased.
        flip: probability of a horizontal flip.
        reduce: decode JPEG files at 1/2, 1/4 or 1/8 of their size where the window then still has at least
            ``reduce`` times S pixels on each side; None decodes all pixels.  1 reads images of 640 x 480 for
            S = 224 in about three quarters of the time; the crops differ by about a gray level, see ``read``.

    Raises:
        InputError: a probability that is none, or a ``reduce`` that would enlarge crops.
    """

    def __init__(
        self,
        size: int,
        interpolation: Literal['bicubic', 'bilinear'] = 'bicubic',
        flip: float = 0.0,
        reduce: float | None = None,
    ) -> None:
        if not 0 <= flip <= 1:
            raise InputError(f'flip must be a probability of 0 to 1, got {flip!r}')
        if reduce is not None and (isinstance(reduce, bool) or not reduce >= 1):
            raise InputError(
                f'reduce must be None or at least 1, so that crops are not enlarged, got {reduce!r}'
            )
        self.size, self.flip, self.reduce = size, flip, reduce
        self.interpolation = InterpolationMode(interpolation)

    @abstractmethod
    def window(self, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
        """Top, left, height and width of the crop of an image."""

    def __call__(self, image: ImageLike, rng: random.Random) -> Tensor:
        """An image of any size -> (3, S, S) uint8."""
        pixels = to_tensor(image)
        return self._cut(pixels, self.window(pixels.shape[-2], pixels.shape[-1], rng), rng)

    def read(self, source: str | Path | bytes, rng: random.Random) -> Tensor:
        """An image file or its bytes -> (3, S, S) uint8, like ``self(read_image(source), rng)``.

        A JPEG may be decoded at a fraction of its size, see ``reduce``.  The window is the same, its edges
        rounded to pixels of the smaller image: up to one pixel of the result.

        Raises:
            InputError: as ``read_image``.
        """
        if self.reduce is None:
            return self(_pixels(source), rng)
        known: list[tuple[int, int, tuple[int, int, int, int]]] = []

        def shrink(width: int, height: int) -> int:
            window = self.window(height, width, rng)
            known.append((height, width, window))
            side = self.size * (self.reduce or 1)
            return next((by for by in (8, 4, 2) if min(window[2:]) >= by * side), 1)

        pixels = _pixels(source, shrink)
        height, width = pixels.shape[-2:]
        if not known:  # not a JPEG
            return self._cut(pixels, self.window(height, width, rng), rng)
        ((whole_height, whole_width, window),) = known
        top, h = _scaled(window[0], window[2], height, whole_height)
        left, w = _scaled(window[1], window[3], width, whole_width)
        return self._cut(pixels, (top, left, h, w), rng)

    def _cut(self, pixels: Tensor, window: tuple[int, int, int, int], rng: random.Random) -> Tensor:
        size = [self.size, self.size]
        crop = F.resized_crop(pixels, *window, size, self.interpolation, antialias=True).contiguous()
        return crop.flip(-1) if self.flip and rng.random() < self.flip else crop


def _pixels(source: str | Path | bytes, shrink: Callable[[int, int], int] | None = None) -> Tensor:
    return torch.from_numpy(read_pixels(source, shrink=shrink)).permute(2, 0, 1)


def _scaled(start: int, length: int, side: int, whole: int) -> tuple[int, int]:
    """Start and length in an image of ``side`` pixels that has ``whole`` pixels at full size."""
    if side == whole:
        return start, length
    first = min(round(start * side / whole), side - 1)
    last = min(max(round((start + length) * side / whole), first + 1), side)
    return first, last - first


@TRANSFORMS.register_module()
class TrainCrop(RandomCrop):
    """A random part of the image, resized to (S, S): the RandomResizedCrop that open_clip trains with.

    Args:
        size: S.
        scale: smallest and largest fraction of the image's area.
        ratio: smallest and largest aspect ratio (width / height).
        interpolation: 'bicubic' or 'bilinear', antialiased.
        flip: probability of a horizontal flip; 0 for captions that mention left and right.
        reduce: of JPEGs, see ``RandomCrop``.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.9, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Literal['bicubic', 'bilinear'] = 'bicubic',
        flip: float = 0.0,
        reduce: float | None = None,
    ) -> None:
        super().__init__(size, interpolation, flip, reduce)
        self.scale, self.ratio = scale, ratio

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
class SquareCrop(RandomCrop):
    """The largest square at a random position, resized to (S, S): OpenAI's only augmentation.

    Cropping comes before resizing, which saves resizing the pixels that are cut off.

    Args:
        size: S.
        interpolation: 'bicubic' or 'bilinear', antialiased.
        reduce: of JPEGs, see ``RandomCrop``.
    """

    def __init__(
        self,
        size: int,
        interpolation: Literal['bicubic', 'bilinear'] = 'bicubic',
        reduce: float | None = None,
    ) -> None:
        super().__init__(size, interpolation, reduce=reduce)

    def window(self, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
        """Top, left, height, width of the largest square, at a random position."""
        side = min(height, width)
        return rng.randint(0, height - side), rng.randint(0, width - side), side, side


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
