"""Captions of images by a captioning model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from clipdense.layers.precision import Precision, autocast, precision_name
from clipdense.methods import list_methods
from clipdense.tasks.captioning import Caption, CaptionModel, CaptionRules
from clipdense.utils.errors import InputError
from clipdense.utils.image_open import MAX_PIXELS
from clipdense.utils.overlap import overlapped

from .load import load
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


class Captioner:
    """A model that describes images.

    It is thread-safe: calls on one model run one after another.

    Args:
        model: a captioning model, such as a BLIP; it is set to evaluation mode.
        rules: how captions are generated.
        precision: 'auto', 'fp32' or 'bf16', see ``Predictor``.

    Raises:
        InputError: a model that does not describe images, or rules that it cannot follow.

    Example:
        >>> captioner = Captioner.from_pretrained('Salesforce/blip-image-captioning-base')
        >>> captioner('street.jpg').text
    """

    def __init__(
        self, model: CaptionModel, rules: CaptionRules | None = None, precision: Precision = 'auto'
    ) -> None:
        self.model: Any = captioning_model(model, type(model).__name__).eval()
        self.rules = CaptionRules() if rules is None else rules
        if not isinstance(self.rules, CaptionRules):
            raise InputError(f'rules must be CaptionRules(...), got {type(rules).__name__}')
        self.model.check_captions(self.rules)
        self._lock = lock_of(self.model)
        self._autocast = autocast_dtype(self.model, precision)

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path | CaptionModel,
        rules: CaptionRules | None = None,
        *,
        device: str | torch.device | None = None,
        precision: Precision = 'auto',
        **overrides: Any,
    ) -> Captioner:
        """A captioner from weights.

        Args:
            weights: as ``clipdense.load`` takes them, or a model.
            rules, precision: see the class.
            device: device of the model; None means the GPU if there is one.
            overrides: as in ``clipdense.load``.

        Raises:
            InputError: weights of another kind of model, or as ``clipdense.load``.
        """
        model: Any = weights
        if isinstance(weights, str | Path):
            model = captioning_model(load(weights, device, **overrides), weights)
        return cls(model, rules, precision)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return device_of(self.model)

    @property
    def precision(self) -> str:
        """What the model computes in: 'fp32' or 'bf16'; another type of its parameters, such as 'fp16'."""
        return precision_name(self._autocast or parameter_dtype(self.model))

    def __call__(self, image: ImageSource | list[ImageSource]) -> Any:
        """Describe one image, or each image of a list.

        Args:
            image: a path, a PIL image, or an array (H, W, 3) of RGB; or a list of these.

        Returns:
            A ``Caption``; a list of them for a list of images.

        Raises:
            InputError: an unreadable image.
        """
        images = image if isinstance(image, list) else [image]
        captions = [caption for _, caption in self.stream(images)]
        return captions if isinstance(image, list) else captions[0]

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int | Literal['auto'] = 'auto',
        on_error: OnError = 'raise',
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[tuple[int, Caption]]:
        """Describe many images, reading one batch at a time.

        Args:
            images: any iterable of images; a path of a folder or a glob pattern stands for its images, that
                of a video file for its frames.
            batch_size: images per batch; 'auto' is 4 on a CPU and 16 on a GPU.  Captions do not depend on it.
            on_error: action if an image cannot be read or described: 'raise', 'skip', or a function of the
                index and the error.
            max_pixels: images with more pixels are not read.

        Yields:
            The index of an image in ``images``, and its caption.

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
        return self._stream(found, on_error)

    def _stream(
        self, batches: Iterator[list[Input | Failed]], on_error: OnError
    ) -> Iterator[tuple[int, Caption]]:
        for batch in batches:
            images = without_failed(batch, on_error)
            if images:
                yield from self._captions(images, on_error)

    def _captions(self, images: list[Input], on_error: OnError) -> list[tuple[int, Caption]]:
        """The captions of a batch; if it fails, those of its images one by one, without those that fail."""
        numbers = [one.number for one in images]
        try:
            pixels = torch.stack([self.model.preprocess(one.image) for one in images])  # (B, 3, S, S)
            with self._lock, torch.no_grad(), autocast(self.device, self._autocast):
                pixels = pixels.to(self.device, parameter_dtype(self.model))
                return list(zip(numbers, self.model.caption(pixels, self.rules, numbers), strict=True))
        except Exception as error:
            if len(images) == 1:
                if on_error == 'raise':
                    raise
                report(error, images[0].number, images[0].name, on_error)
                return []
            if on_error == 'raise' and not isinstance(error, torch.cuda.OutOfMemoryError):
                raise
        return [caption for one in images for caption in self._captions([one], on_error)]


def captioning_model(model: Any, source: object) -> Any:
    """The model, if it describes images.

    Raises:
        InputError: it does not.
    """
    if isinstance(model, nn.Module) and all(hasattr(model, name) for name in ('caption', 'check_captions')):
        return model
    known = ', '.join(one.name for one in list_methods('captioning')) or 'none is installed'
    raise InputError(
        f'{source} ({type(model).__name__}) cannot describe images: use weights of a captioning model '
        f'(methods: {known})'
    )


def _refuse_encoded(_: object) -> None:
    raise InputError('an encoded image cannot be described: pass the image itself')
