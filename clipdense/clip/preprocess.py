"""Image preprocessing, which is recorded with the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from PIL import Image

from clipdense.utils.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import Tensor

Triple = tuple[float, float, float]


STATISTICS: dict[str, tuple[Triple, Triple]] = {
    'openai': ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    'half': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalize an image to a tensor for the image tower.

    Args:
        image_size: side of the square result, in pixels.
        mean, std: of RGB in [0, 1].
        interpolation: 'bicubic' or 'bilinear', by Pillow (antialiased), or 'nearest'.
        resize: 'shortest' resizes the shorter side and crops the center; 'squash' ignores the aspect ratio
            (SigLIP).

    Source: openai/CLIP clip/clip.py ``_transform``.
    """

    image_size: int
    mean: Triple = STATISTICS['openai'][0]
    std: Triple = STATISTICS['openai'][1]
    interpolation: Literal['bicubic', 'bilinear', 'nearest'] = 'bicubic'
    resize: Literal['shortest', 'squash'] = 'shortest'

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size -> (3, S, S), normalized."""
        return self.normalize(self.crop(image))

    def crop(self, image: Image.Image) -> Tensor:
        """An image of any size -> (3, S, S) uint8."""
        side, mode = self.image_size, Image.Resampling[self.interpolation.upper()]
        image = without_far_ends(image) if self.resize == 'shortest' else image
        size = (side, side) if self.resize == 'squash' else _scaled(image.size, side)
        image = image.convert('RGB')
        image = image if image.size == size else image.resize(size, mode)
        return image_to_tensor(_center_crop(image, side))

    def normalize(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 -> float32, normalized by mean and std."""
        import torch  # here, since listing the models reads this module and takes no second

        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1)
        return (
            images.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)
        )  # in place: allocates one tensor, not four

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """The inverse of ``to_dict``."""
        return cls(**{**values, 'mean': tuple(values['mean']), 'std': tuple(values['std'])})

    @classmethod
    def named(cls, name: str, image_size: int) -> Preprocess:
        """Preprocessing with statistics 'openai', 'imagenet' or 'half', or 'siglip' ('half', squashed).

        Raises:
            InputError: an unknown name.
        """
        if name == 'siglip':
            return cls(image_size, *STATISTICS['half'], resize='squash')
        if name not in STATISTICS:
            known = [*STATISTICS, 'siglip']
            raise InputError(
                f'unknown preprocessing {name!r}: choose from {", ".join(known)}.{nearest(name, known)}'
            )
        return cls(image_size, *STATISTICS[name])


def image_to_tensor(image: Image.Image) -> Tensor:
    """An RGB image -> (3, H, W) uint8, a copy in channels-last memory format."""
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _scaled(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Width and height with the shorter side resized to ``short``; the longer side is rounded down."""
    width, height = size
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def _center_crop(image: Image.Image, side: int) -> Image.Image:
    """The center square; half pixels are rounded to even, as in torchvision."""
    if image.size == (side, side):
        return image
    left, top = (round((length - side) / 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))


ImageLike = TypeVar('ImageLike', Image.Image, 'Tensor')


def without_far_ends(image: ImageLike, longest: int = 16) -> ImageLike:
    """Crop the center of an image whose longer side is more than ``longest`` times the shorter one.

    A center crop drops the ends, but resizing them first would exhaust the memory: 1 x 5000 pixels would
    become 224 x 1,120,000.  Other images are returned unchanged, so that they are resized exactly as in the
    official code; cropping shifts the sampling grid by a fraction of a pixel.
    """
    width, height = image.size if isinstance(image, Image.Image) else (image.shape[-1], image.shape[-2])
    side = longest * min(width, height)
    if max(width, height) <= side:
        return image
    left, top = max(0, (width - side) // 2), max(0, (height - side) // 2)
    right, bottom = min(width, left + side), min(height, top + side)
    if isinstance(image, Image.Image):
        return image.crop((left, top, right, bottom))
    return image[..., top:bottom, left:right]
