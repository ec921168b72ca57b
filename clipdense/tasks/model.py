"""Base of the models that the runner trains, validates and tests."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from clipdense.data.preprocessor import DataPreprocessor

if TYPE_CHECKING:  # importing mmengine.optim takes as long as importing torch
    from mmengine.optim import OptimWrapper


class Model(nn.Module, ABC):
    """A module with the three steps that MMEngine's loops call.

    A subclass writes ``forward``, which returns a dict of losses in mode 'loss' and a list of predictions in
    mode 'predict'.  It may add ``init_weights()``, which the runner calls once before training.

    Args:
        data_preprocessor: called with each batch, (data, training); only moves it to the device by default.

    Attributes:
        takes_names: whether batches of training keep the ``names`` of their samples.
    """

    data_preprocessor: Any
    takes_names = False

    def __init__(self, data_preprocessor: nn.Module | None = None) -> None:
        super().__init__()
        self.data_preprocessor = DataPreprocessor() if data_preprocessor is None else data_preprocessor

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """A batch -> losses (mode 'loss'), predictions ('predict') or the model's output ('tensor')."""

    def check_batch(self, size: int, last: bool = False) -> None:
        """Called before training: refuse a batch that cannot be trained on; warn of one that teaches nothing.

        Args:
            size: samples of a batch of one process.
            last: it is the smaller last batch of an epoch.
        """

    def set_steps(self, steps: int) -> None:
        """Called before training with the number of steps of the whole run, for schedules of a model.

        A model that has one keeps its position in its state dict, so that a resumed run continues it.
        """

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One step of the optimizer.

        Args:
            data: a batch as the data loader returns it.
            optim_wrapper: the optimizer, with its precision and accumulation.

        Returns:
            What is logged: 'loss', and everything else that the model returned in mode 'loss'.
        """
        with optim_wrapper.optim_context(self):
            losses = self._run(self.data_preprocessor(data, True), 'loss')
        total, logged = total_loss(losses)
        optim_wrapper.update_params(total)
        return logged

    def val_step(self, data: Any) -> list:
        """Predictions for a batch."""
        return self._run(self.data_preprocessor(data, False), 'predict')

    def test_step(self, data: Any) -> list:
        """Predictions for a batch."""
        return self.val_step(data)

    def _run(self, data: Any, mode: str) -> Any:
        """Call the model with the entries of a batch as its arguments."""
        if isinstance(data, Mapping):
            return self(**data, mode=mode)
        if isinstance(data, Sequence):
            return self(*data, mode=mode)
        raise TypeError(f'a batch must be a dict, list or tuple, got {type(data).__name__}')


def warn_of_image_size(clip: Any, images: Tensor) -> None:
    """Say once for a CLIP that the images of a training have another size than its weights record.

    Args:
        clip: has ``image.size.image_size``.
        images: (B, 3, H, W).

    Warns:
        UserWarning: another size.
    """
    side, (height, width) = clip.image.size.image_size, images.shape[-2:]
    if (height, width) != (side, side) and not getattr(clip, '_size_said', False):
        clip._size_said = True
        warnings.warn(
            f'the training images have {width} x {height} pixels, but the model is for {side} x {side}: '
            'give the model and the transform of the dataset one size, unless this is meant',
            stacklevel=2,
        )


def total_loss(losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum the losses of a model.

    Args:
        losses: by name.  Those with 'loss' in their name count; the others are logged only.

    Returns:
        The sum of their means, and the means of all entries with the sum as 'loss'.

    Raises:
        TypeError: an entry that is not a tensor.
        ValueError: no entry has 'loss' in its name.
    """
    for name, value in losses.items():
        if not isinstance(value, Tensor):
            raise TypeError(f'loss {name!r} must be a tensor, got {type(value).__name__}')
    means = {name: value.mean() for name, value in losses.items()}
    counted = [value for name, value in means.items() if 'loss' in name]
    if not counted:
        raise ValueError(f"a model must return an entry with 'loss' in its name, got {list(losses)}")
    total = sum(counted[1:], start=counted[0])
    return total, {'loss': total, **means}
