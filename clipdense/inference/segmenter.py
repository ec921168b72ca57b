"""Open-vocabulary segmentation.  (H, W): pixels."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from torch.nn import functional as F

from clipdense.clip.class_embeddings import ClassEmbedder
from clipdense.clip.model import CLIP
from clipdense.data.batches import to_tensor
from clipdense.layers.precision import Precision, autocast, resolve_precision
from clipdense.methods import list_methods
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.adapters import Adapter
from clipdense.tasks.dense_embeddings import dense_embeddings
from clipdense.tasks.options import SegmentationOptions
from clipdense.tasks.scenes import RowSource, Scene, has_many_windows, segment_large
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.views import EncodedImage
from clipdense.utils.devices import choose_device
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image
from clipdense.utils.image_open import MAX_PIXELS
from clipdense.vocab.templates import Templates
from clipdense.vocab.vocabulary import Vocabulary

from .encoded import Encoded
from .example_images import ExampleEmbedding
from .features import DenseFeatures
from .image_prompts import per_image, with_image_prompts
from .load import ClassNames, Embedder, load_embedder, load_segmenter, load_trained, method_of
from .predictor import Predictor
from .reading import ImageSource, Input
from .result_checks import check_bytes, check_probabilities
from .results import Segmentation

_INSIDE = 0.5  # part of a cell that a masked region must cover
_COMPARED = 8192  # cells of an example image, at most, whose mean is taken


class Segmenter(Predictor[Segmentation]):
    """A segmentation model and the embedder of its class names.

    Args:
        model: any segmenter.
        embedder: class names -> embeddings; by default a ``PromptEnsemble`` of the model's text tower with
            the templates of its method.
        options: settings that every segmenter has; the model's own by default.
        adapter: changes pixel embeddings and class scores, see ``load_adapter``.
        precision: 'auto', 'fp32' or 'bf16', see ``Predictor``.

    Calls take ``keep_probabilities=True``, for ``Segmentation.probabilities``.

    Raises:
        InputError: a model without a text tower and no embedder, options that do not fit the model, or an
            adapter that it cannot use.
    """

    _needs = ('configure', 'encode_image', 'classify_image')
    _kind = 'pixels'

    def __init__(
        self,
        model: SegmentationModel,
        embedder: ClassEmbedder | None = None,
        options: SegmentationOptions | None = None,
        adapter: Adapter | str | Path | None = None,
        precision: Precision = 'auto',
    ) -> None:
        super().__init__(model, embedder, adapter, precision)
        self.options = options or SegmentationOptions()
        self.model.configure(self.options)

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path | CLIP | SegmentationModel,
        method: str | None = None,
        *,
        options: SegmentationOptions | None = None,
        method_options: Mapping[str, Any] | None = None,
        templates: Templates | None = None,
        embedder: Embedder | None = None,
        adapter: Adapter | str | Path | None = None,
        device: str | torch.device | None = None,
        precision: Precision = 'auto',
        cache: bool = True,
        **overrides: Any,
    ) -> Segmenter:
        """A segmenter from a name in ``list_models()`` or a file in any official format.

        Args:
            weights, method, options, method_options, device, overrides: see ``load_segmenter``.
            templates: prompt templates; the method's own by default.
            embedder: see ``load_embedder``; replaces the templates.
            adapter: see ``load_adapter``.
            precision: see the class.
            cache: whether to cache class embeddings on disk.

        Example:
            >>> segmenter = Segmenter.from_pretrained('ViT-B-16/openai', 'naclip')
            >>> segmenter('street.jpg', ['car', 'road', 'tree']).draw().save('out.png')
        """
        resolve_precision(precision, choose_device(device))  # before weights are loaded
        model = load_segmenter(
            weights, method, device, options=options, method_options=method_options, **overrides
        )
        return cls(model, load_embedder(model, embedder, templates, cache), options, adapter, precision)

    @classmethod
    def from_config(
        cls,
        config: str | Path | Config,
        weights: str | Path,
        *,
        config_options: Sequence[str] | Mapping[str, Any] = (),
        options: SegmentationOptions | None = None,
        templates: Templates | None = None,
        embedder: Embedder | None = None,
        adapter: Adapter | str | Path | None = None,
        device: str | torch.device | None = None,
        precision: Precision = 'auto',
        cache: bool = True,
    ) -> Segmenter:
        """A segmenter from its training config and a checkpoint.

        Args:
            config, weights, config_options, device: see ``load_trained``.
            options, precision: see the class.
            templates: prompt templates, which should be those of the training; the method's own by default.
            embedder: see ``load_embedder``; replaces the templates.
            adapter: see ``load_adapter``.
            cache: whether to cache class embeddings on disk.

        Raises:
            InputError: not the config of a segmenter, or a model without a text tower and no embedder.
        """
        resolve_precision(precision, choose_device(device))  # before weights are loaded
        model = load_trained(config, weights, device, config_options, SegmentationModel)
        return cls(model, load_embedder(model, embedder, templates, cache), options, adapter, precision)

    def _warn_of_one_class(self, vocabulary: Vocabulary) -> None:
        if len(vocabulary) == 1:
            name = vocabulary.class_names[0]
            warnings.warn(f'one class only: every pixel becomes {name!r}; add other classes or a background')

    def _predict(
        self,
        images: list[Input],
        vocabulary: Vocabulary,
        embeddings: ClassEmbeddings,
        settings: Mapping[str, Any],
    ) -> list[Segmentation]:
        self._set_on_model(vocabulary, embeddings)
        self._prepare_to_encode()
        keep, results = settings['keep_probabilities'], []
        for one in images if keep else ():
            check_probabilities(len(vocabulary), (one.image.height, one.image.width))
        large = {one.number for one in images if not keep and self._is_large(one)}
        new = [one for one in images if one.encoded is None and one.number not in large]
        tensors = [to_tensor(one.image).to(self.device) for one in new]
        fresh = iter(self.model.encode_images(tensors) if new else ())
        del tensors
        for one in images:
            size = (one.image.height, one.image.width)
            if one.number in large:
                labels = segment_large(self.model, to_tensor(one.image), torch.int32)
            else:
                encoded = next(fresh) if one.encoded is None else one.encoded.features
                labels = self.model.classify_image(encoded, size, torch.int32, keep)
            mask, probability = labels.classes.cpu().numpy(), labels.probability.cpu().numpy()
            every = None if labels.every is None else labels.every.numpy()
            results.append(Segmentation(mask, probability, vocabulary, one.image, every))
        return results

    def _is_large(self, one: Input) -> bool:
        size = (one.image.height, one.image.width)
        return one.encoded is None and has_many_windows(self.model, size)

    def stream_rows(
        self, source: RowSource, class_names: ClassNames | None = None
    ) -> Iterator[tuple[int, Segmentation]]:
        """Segment an image that is too large for a call, a few rows at a time from top to bottom.

        The rows are those of a call with the whole image.  ``segment_scene`` does this from file to file.

        Args:
            source: the image.
            class_names: see ``__call__``.

        Yields:
            The first row, and the result for this and the next rows, without image.

        Raises:
            InputError: no class names; windows, prompts or ``area_threshold`` that need the whole image.
        """
        vocabulary = self._asked_vocabulary(class_names)
        if per_image(self.embedder):
            raise InputError('these prompts depend on the whole image, which cannot be read in rows')
        return self._rows(source, vocabulary)

    def _rows(self, source: RowSource, vocabulary: Vocabulary) -> Iterator[tuple[int, Segmentation]]:
        asked, scene = vocabulary.with_negatives, None
        for rows in self.model.result_bands(source.size):
            with self._lock, torch.no_grad(), with_image_prompts(self.model, self.embedder):
                self._set_on_model(asked, self._embed(asked))  # another predictor may have set others
                self._prepare_to_encode()
                scene = scene or Scene(self.model, source)
                with autocast(self.device, self._autocast):
                    encoded = scene.encode(rows)
                    labels = self.model.classify_rows(encoded, source.size, rows, torch.int32)
                mask, scores = labels.classes.cpu().numpy(), labels.probability.cpu().numpy()
                result = Segmentation(mask, scores, asked)
                if vocabulary.negatives or vocabulary.thresholds:
                    result = self._reported(result, vocabulary, {})
            yield rows.top, result

    def _reported(
        self, result: Segmentation, vocabulary: Vocabulary, settings: Mapping[str, Any]
    ) -> Segmentation:
        """Negatives, and pixels below the threshold of their class, become background."""
        least = np.array([vocabulary.thresholds.get(name, 0.0) for name in vocabulary.class_names])
        known = result.mask < len(vocabulary)
        kept = known & (result.scores >= least[np.where(known, result.mask, 0)])
        assert vocabulary.background is not None
        background = result.mask.dtype.type(vocabulary.index(vocabulary.background))
        every = None if result.class_scores is None else result.class_scores[: len(vocabulary)]
        mask = np.where(kept, result.mask, background)
        return Segmentation(mask, result.scores, vocabulary, result.image, every)

    def _settings(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """``keep_probabilities``."""
        given = dict(options)
        keep = given.pop('keep_probabilities', False)
        if not isinstance(keep, bool):
            raise InputError(f'keep_probabilities must be True or False, got {keep!r}')
        super()._settings(given)
        return {'keep_probabilities': keep}

    def _encode(self, image: Image.Image) -> EncodedImage:
        return self.model.encode_image(to_tensor(image).to(self.device))

    def _prepare_to_encode(self) -> None:
        self.model.configure(self.options)  # another segmenter of the model may have other options

    def _encoding(self) -> dict[str, Hashable]:
        return {**super()._encoding(), 'options': self.options.slide(self.model.slide)}

    def extract_dense_features(
        self, image: ImageSource, *, pixel_aligned: bool = False, max_pixels: int = MAX_PIXELS
    ) -> DenseFeatures:
        """Unit embeddings of the pixels of an image, in the joint space of the class embeddings.

        Windows, scales and flips are averaged as in a call, and the adapter is applied.

        Args:
            image: as in a call.
            pixel_aligned: one embedding for each pixel of the image, (D, H, W); by default one for each cell
                of the model's grid, (D, h, w).
            max_pixels: see ``stream``.

        Raises:
            InputError: a method without embeddings of pixels, an unreadable image, or a result of more than
                4.3 GB.

        Example:
            >>> features = segmenter.extract_dense_features('street.jpg')
            >>> features.embeddings.shape, features.stride
        """
        if not self.model.has_pixel_embeddings:
            self.model.pixel_embeddings(None)  # raises
        encoded = image if isinstance(image, Encoded) else self.encode(image, max_pixels)
        self._check_encoded(encoded)
        size = (encoded.image.height, encoded.image.width)
        if pixel_aligned:
            dim: Any = getattr(self.model, 'embed_dim', None) or getattr(self.model.clip, 'embed_dim', 1)
            check_bytes(
                4 * dim * size[0] * size[1],
                f'embeddings of {size[1]} x {size[0]} pixels',
                'resize the image, or leave out pixel_aligned',
            )
        with self._lock:
            self.model.set_adapter(self.adapter)
            found = dense_embeddings(self.model, encoded.features, size if pixel_aligned else None)
        return DenseFeatures(found, size)

    def _check_can_embed_examples(self) -> None:
        super()._check_can_embed_examples()
        if not self.model.has_pixel_embeddings:
            raise InputError(
                f'a {type(self.model).__name__} has no embedding of each pixel, so that classes cannot be '
                'given by example images: give their names'
            )

    def _embed_example(self, image: Image.Image, mask: np.ndarray | None, alone: bool) -> ExampleEmbedding:
        self._prepare_to_encode()
        self.model.set_adapter(None)
        with autocast(self.device, self._autocast):
            encoded = self._encode(image)
        found = dense_embeddings(self.model, encoded)  # (D, h, w)
        cells = found.flatten(1).mT
        others = cells[:: 1 + len(cells) // _COMPARED]
        if mask is None:
            return ExampleEmbedding(cells.mean(0), others)
        cover = F.adaptive_avg_pool2d(
            torch.from_numpy(mask).to(found)[None], (found.shape[1], found.shape[2])
        ).flatten()
        inside = cover >= min(_INSIDE, float(cover.max()))
        return ExampleEmbedding(cells[inside].mean(0), others)

    def _check_vocabulary(self, vocabulary: Vocabulary) -> None:
        if self.options.needs_background and vocabulary.background is None:
            raise InputError(
                'background_threshold and area_threshold need a background class: add one, such as '
                "'background' or Vocabulary(names).with_background()"
            )
        if (vocabulary.negatives or vocabulary.thresholds) and vocabulary.background is None:
            raise InputError(
                'negatives and thresholds of a vocabulary need a background class in segmentation, which '
                'their pixels get: add one (--background NAME, or Vocabulary.with_background())'
            )

    @property
    def explains(self) -> bool:
        """Whether the method supports ``explain``."""
        method = method_of(self.model)
        return method is not None and method.explain is not None

    def explain(self, image: str | Path | Image.Image | Any) -> list[Any]:
        """Maps that explain the mask of an image; each has ``name`` and ``draw(image, opacity)``.

        Raises:
            InputError: the method has no such maps, an unreadable image, or no class names.
        """
        method = method_of(self.model)
        if method is None or method.explain is None:
            able = ', '.join(one.name for one in list_methods('segmentation') if one.explain)
            raise InputError(
                f'{type(self.model).__name__} cannot explain its masks; methods that can: {able}'
            )
        if self.vocabulary is None:
            raise InputError('no class names: call set_vocabulary first')
        with self._lock:
            self._set_on_model(self.vocabulary, self._embed(self.vocabulary))
            with autocast(self.device, self._autocast):
                return method.part('explain')(self.model, read_image(image))
