"""Preprocessors that models contain: move batches to the device and normalize uint8 images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.clip.preprocess import STATISTICS
from clipdense.registry import MODELS
from clipdense.utils.errors import InputError, nearest

_MEAN, _STD = 0, 1  # positions in ``STATISTICS``


class DataPreprocessor(nn.Module):
    """Moves a batch to the device of the model that contains it.

    Args:
        non_blocking: copy to the device asynchronously; useful with pinned memory.
    """

    place: Tensor

    def __init__(self, non_blocking: bool = False) -> None:
        super().__init__()
        self.non_blocking = non_blocking
        self.register_buffer('place', torch.empty(0), persistent=False)  # moves with the model

    @property
    def device(self) -> torch.device:
        """The device that batches are moved to."""
        return self.place.device

    def forward(self, data: Any, training: bool = False) -> Any:
        """Move every tensor of a batch, in dicts, lists and tuples of any depth.

        Args:
            data: a batch; other values than tensors are returned unchanged.
            training: ignored.
        """
        if isinstance(data, Tensor):
            return data.to(self.device, non_blocking=self.non_blocking)
        if isinstance(data, Mapping):
            return {key: DataPreprocessor.forward(self, value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            values = [DataPreprocessor.forward(self, value) for value in data]
            return type(data)(*values) if hasattr(data, '_fields') else type(data)(values)
        return data


@MODELS.register_module()
class ImagePreprocessor(DataPreprocessor):
    """Moves a batch to the device and normalizes its images.

    Values equal torchvision's ``ToTensor`` and ``Normalize`` to the last bit.

    Args:
        mean: of RGB in [0, 1]: three numbers, or 'openai', 'imagenet' or 'half' for mean and deviation.
        std: three numbers; None if ``mean`` is a name.
        non_blocking: copy to the device asynchronously; useful with pinned memory.

    Raises:
        InputError: an unknown name, or numbers that are not three or not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: str | Sequence[float] = 'openai',
        std: str | Sequence[float] | None = None,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking)
        # Not in the state dict: statistics are part of the config, and checkpoints do not contain them.
        self.register_buffer('mean', _channels(mean, _MEAN), persistent=False)
        self.register_buffer('std', _channels(mean if std is None else std, _STD), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Normalize ``data['images']``; all other entries are only moved to the device.

        Args:
            data: 'images' is (B, 3, H, W) uint8, or a list of (3, H, W) of several sizes.
            training: ignored.

        Returns:
            The same entries; images are float32, a tensor or a list like the input.
        """
        data = super().forward(data)
        images = data.get('images')
        if isinstance(images, Tensor):
            data['images'] = self.normalize(images)
        elif images is not None:
            data['images'] = [self.normalize(image) for image in images]
        return data

    def normalize(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 -> float32.

        Raises:
            ValueError: images that are not uint8, such as normalized ones.
        """
        if images.dtype != torch.uint8:
            raise ValueError(f'images must be uint8, got {images.dtype}; the model normalizes them itself')
        return images.float().div_(255).sub_(self.mean).div_(self.std)


def _channels(values: str | Sequence[float], which: int) -> Tensor:
    """(3, 1, 1) mean or deviation."""
    if isinstance(values, str):
        if values not in STATISTICS:
            raise InputError(
                f'unknown statistics {values!r}; use {", ".join(STATISTICS)}.{nearest(values, STATISTICS)}'
            )
        values = STATISTICS[values][which]
    if len(values) != 3:
        raise InputError(f'mean and std must have three numbers each, got {list(values)}')
    if which == _STD and min(values) <= 0:
        raise InputError(f'std must be positive, got {list(values)}')
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1)
