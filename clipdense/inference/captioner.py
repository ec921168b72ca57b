"""Captions of images by a captioning model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from torch import Tensor

from clipdense.clip.class_embeddings import module_digest
from clipdense.layers.precision import Precision
from clipdense.tasks.captioning import Caption, CaptionModel, CaptionRules
from clipdense.utils.files import digest
from clipdense.utils.image_open import MAX_PIXELS

from .reading import ImageSource, OnError
from .text_predictor import TextPredictor


class Captioner(TextPredictor[CaptionRules]):
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

    _needs, _does, _rules = ('caption', 'check_captions'), 'describe images', CaptionRules
    _writes = 'captions'

    def __init__(
        self, model: CaptionModel, rules: CaptionRules | None = None, precision: Precision = 'auto'
    ) -> None:
        super().__init__(model, rules, precision)
        self.model.check_captions(self.rules)

    @property
    def digest(self) -> str:
        """Differs for weights or a precision with other captions."""
        return digest(self.precision, module_digest(self.model))

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
        return self._describe(images, self._captions, batch_size, on_error, max_pixels)

    def _captions(self, pixels: Tensor, numbers: list[int]) -> list[Caption]:
        return self.model.caption(pixels, self.rules, numbers)
