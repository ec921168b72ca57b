"""How weights want their images.  It belongs to the weights and travels with them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from clipdense.utils.errors import InputError, nearest

Triple = tuple[float, float, float]
_LONGEST = 16  # times the shorter side: what lies beyond is never in the crop

STATISTICS: dict[str, tuple[Triple, Triple]] = {
    'openai': ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    'half': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise: an image in, a tensor for the image tower out.

    Args:
        image_size: side of the square result, in pixels.
        mean, std: of RGB in 0 .. 1.
        interpolation: 'bicubic' or 'bilinear', by Pillow (antialiased).
        resize: 'shortest' scales the shorter side and crops the centre; 'squash' ignores the aspect (SigLIP).

    Source: openai/CLIP clip/clip.py ``_transform``.
    """

    image_size: int
    mean: Triple = STATISTICS['openai'][0]
    std: Triple = STATISTICS['openai'][1]
    interpolation: Literal['bicubic', 'bilinear'] = 'bicubic'
    resize: Literal['shortest', 'squash'] = 'shortest'

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size -> (3, S, S), normalised."""
        return self.normalise(self.crop(image))

    def crop(self, image: Image.Image) -> Tensor:
        """An image of any size -> (3, S, S) uint8."""
        size, mode = self.image_size, InterpolationMode(self.interpolation)
        image = _without_far_ends(image) if self.resize == 'shortest' else image
        if self.resize == 'squash':
            image = F.resize(image.convert('RGB'), [size, size], mode)
        else:
            image = F.center_crop(F.resize(image.convert('RGB'), [size], mode), [size, size])
        return F.pil_to_tensor(image)

    def normalise(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 -> float32 of mean 0 and deviation 1 per channel."""
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1)
        return images.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)  # one new tensor, not four

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """The inverse of ``to_dict``."""
        return cls(**{**values, 'mean': tuple(values['mean']), 'std': tuple(values['std'])})

    @classmethod
    def named(cls, name: str, image_size: int) -> Preprocess:
        """'openai', 'imagenet', 'half' statistics, or 'siglip' (half, squashed).

        Raises:
            InputError: an unknown name.
        """
        if name == 'siglip':
            return cls(image_size, *STATISTICS['half'], resize='squash')
        if name not in STATISTICS:
            known = [*STATISTICS, 'siglip']
            raise InputError(f'unknown preprocessing {name!r}: choose from {known}.{nearest(name, known)}')
        return cls(image_size, *STATISTICS[name])


def _without_far_ends(image: Image.Image) -> Image.Image:
    """The middle of a very long image: scaled whole, its ends would fill the memory only to be cut off."""
    width, height = image.size
    longest = _LONGEST * min(image.size)
    if max(image.size) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, min(width, left + longest), min(height, top + longest)))
