"""What predictors that write texts about images have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clipdense.layers.precision import Precision, autocast, precision_name
from clipdense.methods import list_methods
from clipdense.utils.errors import InputError
from clipdense.utils.image_open import MAX_PIXELS
from clipdense.utils.overlap import overlapped

from .model_state import autocast_dtype, device_of, lock_of, parameter_dtype
from .reading import (
    Failed,
    ImageSource,
    Input,
    OnError,
    check_call,
    expanded,
    read_batch,
    report,
    without_failed,
)

_BATCH = {'cpu': 4, 'cuda': 16}  # images of batch_size='auto'
Describe = Callable[[Tensor, list[int]], list[Any]]


class TextPredictor:
    """A model whose results for images are texts.

    It is thread-safe: calls on one model run one after another.

    Args:
        model: with ``preprocess``; it is set to evaluation mode.
        precision: 'auto', 'fp32' or 'bf16', see ``Predictor``.
    """

    def __init__(self, model: Any, precision: Precision = 'auto') -> None:
        self.model: Any = model.eval()
        self._lock = lock_of(self.model)
        self._autocast = autocast_dtype(self.model, precision)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return device_of(self.model)

    @property
    def precision(self) -> str:
        """What the model computes in: 'fp32' or 'bf16'; another type of its parameters, such as 'fp16'."""
        return precision_name(self._autocast or parameter_dtype(self.model))

    def _describe(
        self,
        images: Iterable[ImageSource],
        describe: Describe,
        batch_size: int | Literal['auto'] = 'auto',
        on_error: OnError = 'raise',
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[tuple[int, Any]]:
        """The index and the result of each image, reading one batch at a time.

        Args:
            images: any iterable of images; paths of folders, patterns and videos stand for their images.
            describe: normalized images (B, 3, H, W) and their numbers -> a result of each.
            batch_size, on_error, max_pixels: as ``Captioner.stream``.

        Raises:
            InputError: an invalid setting or an unreadable image.
        """
        check_call([], batch_size, on_error, max_pixels)
        images = expanded(images, max_pixels)
        check_call(images, batch_size, on_error, max_pixels)
        count = _BATCH.get(self.device.type, 4) if batch_size == 'auto' else batch_size
        numbered = iter(enumerate(images))
        batches = iter(lambda: list(islice(numbered, count)), [])
        read = partial(read_batch, max_pixels=max_pixels, check=_refuse_encoded)
        found = overlapped(read, batches) if isinstance(images, Sequence) else map(read, batches)
        return self._stream(found, describe, on_error)

    def _stream(
        self, batches: Iterator[list[Input | Failed]], describe: Describe, on_error: OnError
    ) -> Iterator[tuple[int, Any]]:
        for batch in batches:
            images = without_failed(batch, on_error)
            if images:
                yield from self._results(images, describe, on_error)

    def _results(self, images: list[Input], describe: Describe, on_error: OnError) -> list[tuple[int, Any]]:
        """The results of a batch; if it fails, those of its images one by one, without those that fail."""
        numbers = [one.number for one in images]
        try:
            pixels = torch.stack([self.model.preprocess(one.image) for one in images])  # (B, 3, S, S)
            with self._lock, torch.no_grad(), autocast(self.device, self._autocast):
                pixels = pixels.to(self.device, parameter_dtype(self.model))
                return list(zip(numbers, describe(pixels, numbers), strict=True))
        except Exception as error:
            if len(images) == 1:
                if on_error == 'raise':
                    raise
                report(error, images[0].number, images[0].name, on_error)
                return []
            if on_error == 'raise' and not isinstance(error, torch.cuda.OutOfMemoryError):
                raise
        return [result for one in images for result in self._results([one], describe, on_error)]


def checked_model(model: Any, source: object, parts: Sequence[str], does: str) -> Any:
    """The model, if it has these methods.

    Args:
        model: what was loaded.
        source: for the message.
        parts: names of methods.
        does: what such a model does, for the message.

    Raises:
        InputError: it does not have them.
    """
    if isinstance(model, nn.Module) and all(hasattr(model, name) for name in parts):
        return model
    known = ', '.join(one.name for one in list_methods('captioning')) or 'none is installed'
    raise InputError(
        f'{source} ({type(model).__name__}) cannot {does}: use weights of a captioning model '
        f'(methods: {known})'
    )


def _refuse_encoded(_: object) -> None:
    raise InputError('an encoded image cannot be described: pass the image itself')
