"""Base class of Classifier, Segmenter and Detector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from PIL import Image
from torch import nn

from clipdense.clip.class_embeddings import ClassEmbedder, class_embedder
from clipdense.layers.precision import Precision, autocast
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.adapters import Adapter, Kind
from clipdense.utils.devices import choose_device
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image
from clipdense.utils.image_open import MAX_PIXELS
from clipdense.vocab.vocabulary import Vocabulary

from .adapters import load_adapter
from .class_name_state import ClassNameState
from .encoded import Encoded, model_token
from .example_images import Contents
from .image_prompts import check_embedder, per_image, with_image_prompts
from .load import ClassNames
from .model_state import ModelState, autocast_dtype
from .reading import (
    Failed,
    ImageSource,
    Input,
    OnError,
    check_call,
    checked_images,
    read_batches,
    report,
    without_failed,
)

Result = TypeVar('Result')

_GPU_BATCH = 8  # images of batch_size='auto'
_OUT_OF_MEMORY = torch.cuda.OutOfMemoryError


class Predictor(ModelState, ClassNameState, Generic[Result]):
    """A model and the embedder of its class names.

    Predictors are thread-safe: class names are fixed when a call or stream begins, and calls on one model run
    one after another, also those of several predictors with other class names, templates or embedders.

    Args:
        model: the model; it is set to evaluation mode.
        embedder: class names -> embeddings.
        adapter: changes embeddings and class scores; an object or a file, see ``load_adapter``.
        precision: what image towers, backbones and decoders compute in.  'bf16' is autocast: parameters stay
            fp32, and class embeddings, scores and results are fp32.  'auto' is 'bf16' where the device has
            bf16 units, 'fp32' elsewhere; parameters of another type (``dtype`` of ``load``) keep it.

    Raises:
        InputError: no such model or precision, or a precision for parameters that are not fp32.
    """

    _needs: ClassVar[tuple[str, ...]] = ()  # what the model must have
    _kind: ClassVar[Kind] = 'images'  # what the model embeds

    def __init__(
        self,
        model: Any,
        embedder: ClassEmbedder | None = None,
        adapter: Adapter | str | Path | None = None,
        precision: Precision = 'auto',
    ) -> None:
        if not isinstance(model, nn.Module):
            kind = type(self).__name__
            raise InputError(
                f'{kind} takes a model, got {model!r}: use {kind}.from_pretrained(...) for weights'
            )
        if missing := [name for name in self._needs if not hasattr(model, name)]:
            kind, given = type(self).__name__, type(model).__name__
            raise InputError(
                f'{kind} cannot use a {given}, which has no {missing[0]}: use {kind}.from_pretrained(...)'
            )
        super().__init__(model, precision)
        self.embedder = class_embedder(model, embedder, cache='default')
        self.adapter = None if adapter is None else load_adapter(adapter, model, self._kind).to(self.device)
        check_embedder(model, self.embedder)
        self.vocabulary: Vocabulary | None = None
        self._embedded: dict[tuple[Any, ...], ClassEmbeddings] = {}
        self._contents: dict[Any, Contents] = {}
        self._asked = precision

    def to(self, device: str | torch.device) -> Any:
        """Move the model to a device, where 'auto' chooses the precision again; returns ``self``.

        Raises:
            InputError: the device is not available.
        """
        with self._lock:
            self.model.to(choose_device(device))
            if self.adapter is not None:
                self.adapter.to(self.device)
            self._autocast = autocast_dtype(self.model, self._asked)
            self._embedded.clear()
        return self

    def __call__(
        self, image: ImageSource | list[ImageSource], class_names: ClassNames | None = None, **options: Any
    ) -> Any:
        """Predict for one image, or for each image of a list.

        Args:
            image: a path, a PIL image, an array (H, W, 3) of RGB, or what ``encode`` returned; or a list of
                these.
            class_names: the classes; by default those of ``set_vocabulary`` or of the last call.
            options: see the class.

        Returns:
            One result; a list of results for a list of images.

        Raises:
            InputError: an unreadable image, no class names, or an unknown option.
        """
        images = image if isinstance(image, list) else [image]
        results = [result for _, result in self.stream(images, class_names, **options)]
        return results if isinstance(image, list) else results[0]

    def encode(self, image: ImageSource | list[ImageSource], max_pixels: int = MAX_PIXELS) -> Any:
        """Encode an image, or each image of a list, once for any number of vocabularies.

        The result takes the place of the image in later calls, which give what they give for the image, to
        the last bit.  It has the image and the model's features of it, on the model's device, see ``nbytes``.

        Args:
            image: as in a call.
            max_pixels: see ``stream``.

        Returns:
            An ``Encoded``; a list of them for a list of images.

        Raises:
            InputError: an unreadable image, or a model that reads class names together with the image.

        Example:
            >>> encoded = segmenter.encode('street.jpg')
            >>> segmenter(encoded, ['car', 'road']), segmenter(encoded, ['person', 'sky'])
        """
        check_call([], 1, 'raise', max_pixels)
        self._check_can_encode()
        if isinstance(image, list):
            return [self.encode(one, max_pixels) for one in image]
        if isinstance(image, Encoded):
            raise InputError('the image is encoded already: pass it to the call')
        found = read_image(image, max_pixels)
        with self._lock, torch.no_grad(), with_image_prompts(self.model, self.embedder):
            self._prepare_to_encode()
            with autocast(self.device, self._autocast):
                features = self._encode(found)
            return Encoded(found, features, model_token(self.model), self._encoding())

    def stream(
        self,
        images: Iterable[ImageSource],
        class_names: ClassNames | None = None,
        *,
        batch_size: int | Literal['auto'] = 1,
        on_error: OnError = 'raise',
        max_pixels: int = MAX_PIXELS,
        **options: Any,
    ) -> Iterator[tuple[int, Result]]:
        """Predict for many images, reading one batch at a time.

        The next batch of a list is read in a background thread while the model computes.

        Args:
            images: any iterable of images, see ``__call__``; iterators are asked for one batch at a time.  A
                path of a folder or a glob pattern stands for its images (in the order of ``list_images``),
                that of a video file for its frames.
            class_names: see ``__call__``; fixed when the stream begins.
            batch_size: images per batch; 'auto' is 1 on a CPU, where larger batches are not faster, and 8 on
                a GPU, which processes images one by one where a batch does not fit its memory.
            on_error: action if an image cannot be read or processed, for whatever reason: 'raise' raises the
                error, 'skip' skips the image, a function is called with the index and the error and the image
                is skipped.
            max_pixels: images with more pixels are not read; raise it for images that you trust.
            options: see the class.

        Yields:
            The index of an image in ``images``, and its result.

        Raises:
            InputError: no class names, a batch size or ``max_pixels`` below 1, an unknown option, or an
                unreadable image.
        """
        images = checked_images(images, batch_size, on_error, max_pixels)
        settings = self._settings(options)
        vocabulary = self._asked_vocabulary(class_names)
        count = self._auto_batch if batch_size == 'auto' else batch_size
        batches = read_batches(images, count, max_pixels, self._check_encoded)
        answer = partial(self._answers, vocabulary=vocabulary, on_error=on_error, settings=settings)
        return self._stream(batches, on_error, answer)

    @property
    def _auto_batch(self) -> int:
        return 1 if self.device.type == 'cpu' else _GPU_BATCH

    def _check_can_encode(self) -> None:
        """Check that the model encodes images without class names.

        Raises:
            InputError: it does not.
        """

    def _prepare_to_encode(self) -> None:
        """Set what the encoding depends on, which another predictor of the model may have changed."""

    def _encoding(self) -> dict[str, Hashable]:
        """What the encoding of an image depends on, beside the model."""
        prompts = id(self.embedder) if getattr(self.embedder, 'changes_images', False) else None
        return {'device': str(self.device), 'precision': self.precision, 'prompts': prompts}

    @abstractmethod
    def _encode(self, image: Image.Image) -> Any:
        """The features of an image, without class names."""

    @abstractmethod
    def _predict(
        self,
        images: list[Input],
        vocabulary: Vocabulary,
        embeddings: ClassEmbeddings,
        settings: Mapping[str, Any],
    ) -> list[Result]:
        """Predict for a batch of images."""

    def _settings(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check the options of a call.

        Raises:
            InputError: an unknown option.
        """
        for name in options:
            kind = type(self).__name__
            raise InputError(
                f'a call of {kind} has no option {name!r}; settings belong to {kind}.from_pretrained'
            )
        return {}

    @staticmethod
    def _stream(
        batches: Iterator[list[Input | Failed]],
        on_error: OnError,
        answer: Callable[[list[Input]], list[tuple[int, Result]]],
    ) -> Iterator[tuple[int, Result]]:
        for batch in batches:
            images = without_failed(batch, on_error)
            del batch
            answers = answer(images) if images else []
            del images
            while answers:
                yield answers.pop(0)

    def _answers(
        self,
        batch: list[Input],
        vocabulary: Vocabulary,
        on_error: OnError,
        settings: Mapping[str, Any],
    ) -> list[tuple[int, Result]]:
        """The results of a batch; if it fails, those of its images one by one, without those that fail."""
        with self._lock, torch.no_grad(), with_image_prompts(self.model, self.embedder):
            try:
                results = self._embed_and_predict(batch, vocabulary, settings)
                return list(zip([one.number for one in batch], results, strict=True))
            except Exception as error:
                if on_error == 'raise' and (len(batch) == 1 or not isinstance(error, _OUT_OF_MEMORY)):
                    raise
                if len(batch) == 1:
                    report(error, batch[0].number, batch[0].name, on_error)
                    return []
        single = [self._answers([one], vocabulary, on_error, settings) for one in batch]
        return [answer for answers in single for answer in answers]

    def _embed_and_predict(
        self, images: list[Input], vocabulary: Vocabulary, settings: Mapping[str, Any]
    ) -> list[Result]:
        """Predict for a batch; one by one if the class embeddings depend on the image."""
        asked = vocabulary.with_negatives
        settings = self._for_vocabulary(settings, vocabulary)
        if not per_image(self.embedder):
            results = self._compute(images, asked, self._embed(asked), settings)
        else:
            embed: Any = self.embedder
            results = [
                result
                for image in images
                for result in self._compute(
                    [image], asked, self._adapted(embed.embed_for(asked, image.image)), settings
                )
            ]
        if not vocabulary.negatives and not vocabulary.thresholds:
            return results
        return [self._reported(result, vocabulary, settings) for result in results]

    def _for_vocabulary(self, settings: Mapping[str, Any], vocabulary: Vocabulary) -> Mapping[str, Any]:
        """The settings of a call, with what the vocabulary adds to them."""
        return settings

    @abstractmethod
    def _reported(self, result: Result, vocabulary: Vocabulary, settings: Mapping[str, Any]) -> Result:
        """The result for a vocabulary with negatives, which are its last classes, or thresholds."""

    def _compute(
        self,
        images: list[Input],
        vocabulary: Vocabulary,
        embeddings: ClassEmbeddings,
        settings: Mapping[str, Any],
    ) -> list[Result]:
        """Predict in the precision of this predictor; class embeddings are computed before, in fp32."""
        with autocast(self.device, self._autocast):
            return self._predict(images, vocabulary, embeddings, settings)

    def _check_encoded(self, encoded: Encoded) -> None:
        encoded.check(self.model, self._encoding())
