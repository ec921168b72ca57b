"""What predictors that write texts about images have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from clipdense.layers.precision import Precision, autocast
from clipdense.methods import list_methods
from clipdense.utils.errors import InputError
from clipdense.utils.image_open import MAX_PIXELS

from .load import load
from .model_state import ModelState, parameter_dtype
from .reading import Failed, ImageSource, Input, OnError, checked_images, read_batches, report, without_failed

if TYPE_CHECKING:
    from typing_extensions import Self

_BATCH = {'cpu': 4, 'cuda': 16}  # images of batch_size='auto'
Describe = Callable[[Tensor, list[int]], list[Any]]
Rules = TypeVar('Rules')


class TextPredictor(ModelState, Generic[Rules]):
    """A model whose results for images are texts.

    It is thread-safe: calls on one model run one after another.

    Args:
        model: with ``preprocess``; it is set to evaluation mode.
        rules: how texts are found.
        precision: 'auto', 'fp32' or 'bf16', see ``Predictor``.

    Raises:
        InputError: a model that does something else, or rules of another type.
    """

    _needs: ClassVar[tuple[str, ...]]  # methods of the model
    _does: ClassVar[str]  # what it does, for messages
    _writes: ClassVar[str]  # see ``methods.Method.writes``
    _rules: ClassVar[type]

    def __init__(self, model: Any, rules: Rules | None = None, precision: Precision = 'auto') -> None:
        super().__init__(self._checked(model, type(model).__name__), precision)
        self.rules: Rules = self._rules() if rules is None else rules
        if not isinstance(self.rules, self._rules):
            raise InputError(f'rules must be {self._rules.__name__}(...), got {type(rules).__name__}')

    @classmethod
    def from_pretrained(
        cls,
        weights: Any,
        rules: Rules | None = None,
        *,
        device: str | torch.device | None = None,
        precision: Precision = 'auto',
        **overrides: Any,
    ) -> Self:
        """From weights.

        Args:
            weights: as ``clipdense.load`` takes them, or a model.
            rules, precision: see the class.
            device: device of the model; None means the GPU if there is one.
            overrides: as in ``clipdense.load``.

        Raises:
            InputError: weights of another kind of model, or as ``clipdense.load``.
        """
        model = weights
        if isinstance(weights, str | Path):
            model = cls._checked(load(weights, device, **overrides), weights)
        return cls(model, rules, precision)

    @classmethod
    def _checked(cls, model: Any, source: object) -> nn.Module:
        if isinstance(model, nn.Module) and all(hasattr(model, name) for name in cls._needs):
            return model
        known = [one.writes[cls._writes] for one in list_methods() if cls._writes in one.writes]
        usable = f'weights of {", or of ".join(known)}' if known else 'a method that can; none is installed'
        raise InputError(f'{source} ({type(model).__name__}) cannot {cls._does}: use {usable}')

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
        images = checked_images(images, batch_size, on_error, max_pixels)
        count = _BATCH.get(self.device.type, 4) if batch_size == 'auto' else batch_size
        batches = read_batches(images, count, max_pixels, _refuse_encoded)
        return self._stream(batches, describe, on_error)

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


def _refuse_encoded(_: object) -> None:
    raise InputError('an encoded image cannot be described: pass the image itself')
