"""Images that are read as a whole, for questions and captions: squares, as in training.

B: images, S: side of an image, (h, w): a level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.preprocess import Preprocess
from clipdense.data.detection.inference import move_preprocessor
from clipdense.utils.errors import InputError

from ..prompts import Prompt
from ..training_prompts import TrainingText

if TYPE_CHECKING:
    from .detector import GLIPv2


def square_preprocess(data_preprocessor: Any, image_size: int) -> Preprocess:
    """What prepares such images: squares, normalized as the detector does it, as RGB."""
    mean, std = [0.0] * 3, [1.0] * 3
    if getattr(data_preprocessor, '_enable_normalize', False):
        mean, std = (getattr(data_preprocessor, name).flatten().tolist() for name in ('mean', 'std'))
        if _swaps(data_preprocessor):
            mean, std = mean[::-1], std[::-1]
    low, wide = ((x[0] / 255, x[1] / 255, x[2] / 255) for x in (mean, std))
    return Preprocess(image_size, low, wide, interpolation='bilinear', resize='squash')


def square_levels(model: GLIPv2, images: Tensor) -> tuple[Tensor, ...]:
    """The levels of normalized RGB images (B, 3, S, S), which are padded as in training."""
    move_preprocessor(model)
    prepared: Any = model.data_preprocessor
    images = images.flip(1) if _swaps(prepared) else images
    divisor = getattr(prepared, 'pad_size_divisor', 1)
    more = -images.shape[-1] % divisor
    if more:
        images = F.pad(images, (0, more, 0, more), value=getattr(prepared, 'pad_value', 0))
    return model.extract_feat(images)


def check_square(about: Mapping[str, Any], side: int, objective: str, dataset: str) -> None:
    """Refuse images of a training that have another size than the model reads afterwards.

    Args:
        about: ``metainfo`` of a sample.
        side: S.
        objective: name of the objective.
        dataset: what gave the sample.

    Raises:
        InputError: another size.
    """
    if tuple(about['img_shape'][:2]) != (side, side):
        raise InputError(
            f'the images of {dataset} have {about["img_shape"][1]} x {about["img_shape"][0]} pixels, and '
            f'objectives.{objective}.image_size is {side}: give both the same image_size'
        )


def without_boxes(text: str) -> TrainingText:
    """A text without phrases, of an image whose objects have no boxes."""
    return TrainingText(Prompt(text, ()), torch.zeros(0, dtype=torch.int64), None, boxed=False)


def _swaps(data_preprocessor: Any) -> bool:
    """Whether it changes RGB to BGR."""
    return bool(getattr(data_preprocessor, '_channel_conversion', False))
