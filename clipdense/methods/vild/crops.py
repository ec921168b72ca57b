"""Crops of image regions for the teacher CLIP.  R: regions, S: side of the teacher's input.

An image is decoded once; regions are cropped and resized as uint8, and normalized in batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from clipdense.data.transforms import CenterCrop


def grown(boxes: NDArray[np.floating], factor: float, size: tuple[int, int]) -> NDArray[np.int64]:
    """Boxes in integer pixels, enlarged around their center and clipped at the image border.

    Each side is moved outward by (factor - 1) / 2 of the width or height; corners are rounded outward, and a
    box is at least one pixel wide and high.

    Args:
        boxes: (R, 4) x1, y1, x2, y2.
        factor: scale factor; ViLD uses 1 and 1.5.
        size: (H, W) of the image.

    Returns:
        (R, 4) integer pixels; x2 and y2 are exclusive.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    margin = (boxes[:, 2:] - boxes[:, :2]) * (factor - 1) / 2
    height, width = size
    low = np.floor(boxes[:, :2] - margin).clip(0, [width - 1, height - 1])
    high = np.ceil(boxes[:, 2:] + margin).clip(low + 1, [width, height])
    return np.concatenate([low, high], axis=1).astype(np.int64)


def crop_regions(
    image: Image.Image | Tensor,
    boxes: NDArray[np.floating],
    crop: CenterCrop,
    factors: Sequence[float] = (1.0, 1.5),
) -> Tensor:
    """Crops of all regions of an image, for each scale factor.

    Args:
        image: an RGB image, or (3, H, W) uint8.
        boxes: (R, 4) x1, y1, x2, y2 in pixels.
        crop: the teacher's image transform.
        factors: scale factors of the boxes.

    Returns:
        (factors, R, 3, S, S) uint8.
    """
    pixels = pil_to_tensor(image) if isinstance(image, Image.Image) else image  # (3, H, W)
    # Resizing uint8 images is fastest in channels-last memory format.
    pixels = pixels[None].contiguous(memory_format=torch.channels_last)[0]
    side = crop.preprocess.image_size
    found = torch.empty(len(factors), len(boxes), 3, side, side, dtype=torch.uint8)
    for row, factor in zip(found, factors, strict=True):
        for place, (x1, y1, x2, y2) in enumerate(grown(boxes, factor, tuple(pixels.shape[1:])).tolist()):
            row[place] = crop(pixels[:, y1:y2, x1:x2])
    return found
