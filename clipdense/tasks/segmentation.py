"""Segmentation with class names given at run time.

B: images or windows, (h, w): patch grid, (H, W): pixels, D: joint space, K: classes, Q: queries.

A segmenter implements ``encode_pixels`` and ``classify_pixels``; this module does the rest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.data.preprocessor import ImagePreprocessor
from clipdense.layers.precision import dtype_at_least_fp32, no_autocast
from clipdense.registry import build_module
from clipdense.structures import ClassEmbeddings, SegmentationSample
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .adapters import Adapter
from .bands import Rows, assemble, bands, resize, view_rows
from .model import Model
from .options import SegmentationOptions
from .reduction import KeptLogits, PixelMaximum, merge_windows, reduce_queries
from .refine import PAMR, Refinement
from .views import EncodedImage, EncodedRows, PixelLabels, View, features_fp32
from .windows import Slide, encode_windows

_CHUNK = 64 << 20  # bytes of class logits; larger chunks are slower, because they exceed the caches
_PER_PIXEL = 64  # bytes of a pixel in a band: planes of one class, the running maximum, three colors
_PLANES = 4  # full-size copies of a chunk that live at the same time: canvas, upsampled window, result, exp


class SegmentationModel(Model):
    """Base of all segmenters: windows, upsampling, vocabulary, background.

    Args:
        mean, std: of the tower's images, on the 0 .. 1 scale.
        slide: resizing and sliding windows.
        logit_scale: factor on the class scores before the softmax over classes.
        background_threshold: pixels whose best class is less probable than this become background, where the
            vocabulary has a background class.
        memory_budget: bytes for class logits at full size, and for windows in the tower: larger inputs are
            processed in chunks.
        area_threshold: classes that cover at most this fraction of the foreground are dropped, and
            their pixels get the next best class, if the vocabulary has a background class.
        refiner: refines class scores at full size, before the maximum (``PAMR``).

    Attributes:
        joint_over_classes: whether ``classify_pixels`` needs all classes together (softmax, top-k, maximum).
        background: where the background rule applies: to the whole image, to each window, or not at all.
        patch_size: the smallest image that the tower takes, in pixels.
        templates: name of the prompt templates that the method was published with.
        method: name in the table of methods; empty for one that is not there.
        adapter: changes pixel embeddings and class scores; not part of the state dict.
    """

    joint_over_classes: bool = False
    background: Literal['window', 'image', None] = 'image'
    patch_size: int = 1
    templates: str = 'imagenet'
    method: str = ''
    adapter: Adapter | None = None

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        slide: Slide | dict | None = None,
        logit_scale: float = 40.0,
        background_threshold: float = 0.0,
        memory_budget: int = 256 << 20,
        area_threshold: float = 0.0,
        refiner: nn.Module | dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=ImagePreprocessor(mean, std))
        self.slide = Slide(**slide) if isinstance(slide, dict) else slide or Slide()
        self.logit_scale = logit_scale
        self.background_threshold = background_threshold
        self.memory_budget = memory_budget
        self.area_threshold = area_threshold
        self.refiner = None if refiner is None else build_module(refiner)
        self.vocabulary: Vocabulary | None = None
        self.dataset_meta: dict[str, Any] = {}
        self.register_buffer('queries', None, persistent=False)
        self.register_buffer('query_class', None, persistent=False)

    def configure(self, options: SegmentationOptions) -> None:
        """Change inference settings; those that are None in ``options`` are kept.

        Raises:
            InputError: windows that do not fit the model, or scales that are not positive.
        """
        self.slide = options.slide(self.slide)
        self.slide.check(self.patch_size)
        if options.background_threshold is not None:
            self.background_threshold = options.background_threshold
        if options.area_threshold is not None:
            self.area_threshold = options.area_threshold
        if options.refine is not None:
            self.refiner = PAMR() if options.refine else None

    @abstractmethod
    def encode_pixels(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> features, independent of the vocabulary.

        What it returns is a tensor or a tuple of tensors, B first in each.
        """

    @abstractmethod
    def classify_pixels(self, features: Any, text: Tensor) -> Tensor:
        """Features, (K, D) or (B, K, D) class embeddings -> (B, K, h, w)."""

    def pixel_embeddings(self, features: Any) -> Tensor:
        """Output of ``encode_pixels`` -> unit embeddings (B, D, h, w), which an adapter uses.

        Raises:
            InputError: the method has none.
        """
        raise InputError(f'a {type(self).__name__} has no embedding of each pixel in the joint space')

    @property
    def has_pixel_embeddings(self) -> bool:
        """Whether ``pixel_embeddings`` is implemented."""
        return type(self).pixel_embeddings is not SegmentationModel.pixel_embeddings

    def with_pixel_embeddings(self, features: Any, embeddings: Tensor) -> Any:
        """Output of ``encode_pixels`` with other pixel embeddings."""
        return embeddings

    def fit_scores(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores at the pixel embeddings (1, K, h, w) -> at ``size``, that of ``classify_pixels``."""
        if scores.shape[-2:] == size:
            return scores
        return F.interpolate(scores, size, mode='bilinear', align_corners=False)

    def embedding_extent(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size in pixels that the pixel embeddings of a window (H, W) cover; larger where it is padded."""
        return size

    @property
    def cosine_scale(self) -> float:
        """The factor on cosines of pixel embeddings and class embeddings in the logits."""
        return self.logit_scale

    def set_adapter(self, adapter: Adapter | None) -> None:
        """Set or remove the adapter for subsequent calls.

        Raises:
            InputError: the method has no pixel embeddings.
        """
        if adapter is not None and not self.has_pixel_embeddings:
            raise InputError(
                f'a {type(self).__name__} cannot use an adapter: it has no embedding of each pixel in the '
                'joint space'
            )
        self.__dict__['adapter'] = adapter

    def finish(self, labels: PixelLabels, image: Tensor) -> PixelLabels:
        """Postprocessing of the whole image: improbable pixels become background.

        Args:
            labels: (H, W) each.
            image: (3, h, w), resized and normalized.
        """
        if self.background != 'image' or self.background_index is None:
            return labels
        improbable = labels.probability < self.background_threshold
        return labels._replace(classes=labels.classes.masked_fill(improbable, self.background_index))

    def pixel_logits(self, images: Tensor, text: Tensor) -> Tensor:
        """(B, 3, H, W), (K, D) -> (B, K, h, w)."""
        return self.classify_pixels(self.encode_pixels(images), text)

    @property
    def background_index(self) -> int | None:
        """Class index of the vocabulary's background, None where it has none."""
        vocabulary = self.vocabulary
        if vocabulary is None or vocabulary.background is None:
            return None
        return vocabulary.index(vocabulary.background)

    def set_vocabulary(self, vocabulary: Vocabulary, embeddings: ClassEmbeddings) -> None:
        """Set the vocabulary for subsequent calls.  It is not part of the state dict.

        Raises:
            ValueError: the numbers of embedded classes and names differ.
        """
        if embeddings.num_classes != len(vocabulary):
            raise ValueError(
                f'got embeddings of {embeddings.num_classes} classes for {len(vocabulary)} class names'
            )
        parameter = next(self.parameters())
        self.vocabulary = vocabulary
        self.queries = embeddings.queries.to(parameter.device, dtype_at_least_fp32(parameter))
        self.query_class = embeddings.query_class.to(parameter.device)
        self.num_classes = len(vocabulary)
        self.dataset_meta = {'classes': vocabulary.class_names, 'vocabulary': vocabulary}

    def forward(
        self,
        images: Tensor | Sequence[Tensor],
        samples: Sequence[SegmentationSample] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Called by MMEngine.  ``images`` are normalized; in mode 'predict' they may differ in size.

        Returns:
            mode 'predict': the samples with ``prediction``; 'loss': a dict; 'tensor': logits (B, Q, h, w).
        """
        if mode == 'predict':
            return [self._predict(image, sample) for image, sample in zip(images, samples or (), strict=True)]
        if mode == 'loss':
            return self.loss(images, samples)
        return self.pixel_logits(torch.stack(list(images)), self._text())

    def loss(self, images: Any, samples: Any) -> dict[str, Tensor]:
        """Training losses; overridden by trained segmenters."""
        raise RuntimeError(f'{type(self).__name__} is training-free and has no loss')

    @torch.no_grad()
    def segment(self, image: Tensor, result_size: tuple[int, int] | None = None) -> PixelLabels:
        """One image (3, H, W), as ``encode_image`` takes it -> labels of its size, or of ``result_size``."""
        kept = self.encode_image(image)
        return self.classify_image(kept, result_size or (image.shape[-2], image.shape[-1]))

    def encode_image(self, image: Tensor) -> EncodedImage:
        """Encode an image, see ``encode_images``."""
        return self.encode_images([image])[0]

    @torch.no_grad()
    def encode_images(self, images: Sequence[Tensor]) -> list[EncodedImage]:
        """Encode images (3, H, W), once for any number of vocabularies; the slow part.

        Windows of one size share batches, also those of several images.

        Args:
            images: normalized, or uint8, which takes less memory for large images.

        Raises:
            InputError: windows that do not fit the model.
        """
        self.check_windows()
        views = [
            self._encode_views([self._resized(image, scale) for image in images], mirrored)
            for scale, mirrored in self.slide.views()
        ]
        return [
            EncodedImage(self._resized(image), list(own))
            for image, own in zip(images, zip(*views, strict=True), strict=True)
        ]

    def check_windows(self) -> None:
        """Check the size of the windows.

        Raises:
            InputError: windows that do not fit the model.
        """
        self.slide.check(self.patch_size)

    def _resized(self, image: Tensor, scale: float = 1.0) -> Tensor:
        """(3, H, W) -> (3, h, w), normalized."""
        size = self.slide.resized((image.shape[-2], image.shape[-1]), self.patch_size, scale)
        prepare = self.data_preprocessor.normalize if image.dtype == torch.uint8 else nn.Identity()
        with no_autocast(image.device):
            return resize(image, size, prepare=prepare, pixels=self.band_pixels)

    @torch.no_grad()
    def classify_image(
        self,
        image: EncodedImage,
        result_size: tuple[int, int],
        dtype: torch.dtype = torch.int64,
        every: bool = False,
    ) -> PixelLabels:
        """Classify an encoded image with the vocabulary -> labels (H, W); the fast part.

        Images that are too large for the memory budget are classified in bands of rows.  Autocast does not
        reach in: scores, softmax and refinement are computed in fp32.

        Args:
            image: the image.
            result_size: (H, W).
            dtype: of the class indices.
            every: whether to keep the probability of each class, K * H * W * 4 bytes: of its best query
                among all queries, before thresholds.

        Raises:
            InputError: no vocabulary yet, or scores that are NaN or infinite.
        """
        with no_autocast(image.image.device):
            return self._pixel_labels(image, result_size, dtype, every)

    def _pixel_labels(
        self, image: EncodedImage, result_size: tuple[int, int], dtype: torch.dtype, keep: bool
    ) -> PixelLabels:
        queries = torch.arange(len(self._text()), device=image.image.device)
        kept = None if not keep else KeptLogits(self.num_classes, result_size, self.query_class)
        full_logits, chunk = self._full_logits(image, result_size), self._chunk(image, result_size)

        def reduce(queries: Tensor) -> Iterator[tuple[Rows, PixelMaximum]]:
            own = kept if len(queries) == len(self._text()) else None
            for part in self.result_bands(result_size):
                best = self._best(partial(full_logits, rows=part), queries, chunk, part, own)
                yield part, best._replace(query=best.query.to(dtype))

        if self.area_threshold and self.background_index is not None:
            labels = self._large_classes(reduce, queries, result_size)
        else:
            found = ((part, (best.query, best.probability)) for part, best in reduce(queries))
            labels = PixelLabels(*assemble(result_size, found))
        return self.finish(labels._replace(every=None if kept is None else kept.probabilities), image.image)

    @torch.no_grad()
    def classify_rows(
        self, image: EncodedRows, result_size: tuple[int, int], rows: Rows, dtype: torch.dtype = torch.int64
    ) -> PixelLabels:
        """Some rows of what ``classify_image`` returns, to the last bit; (rows, W) each.

        Args:
            image: the part of the image that these rows depend on.
            result_size: (H, W) of the whole result.
            rows: one of ``result_bands``.
            dtype: of the class indices.

        Raises:
            InputError: as ``classify_image``; also for ``area_threshold``, which needs the whole image.
        """
        if self.area_threshold and self.background_index is not None:
            raise InputError(
                'area_threshold needs the whole image, which is read in bands of rows: leave it out'
            )
        with no_autocast(image.image.device):
            queries = torch.arange(len(self._text()), device=image.image.device)
            full_logits = partial(self._full_logits(image, result_size), rows=rows)
            best = self._best(full_logits, queries, self._chunk(image, result_size), rows)
            return self.finish(PixelLabels(best.query.to(dtype), best.probability), image.image)

    def result_bands(self, result_size: tuple[int, int]) -> list[Rows]:
        """The rows of a result (H, W) that are classified at a time."""
        return bands(result_size, self.band_pixels)

    @property
    def band_pixels(self) -> int:
        """Pixels that are resized or classified at a time."""
        return max(1, self.memory_budget // _PER_PIXEL)

    def _chunk(self, image: EncodedImage | EncodedRows, result_size: tuple[int, int]) -> int:
        """The number of queries that are classified at a time."""
        rows = self.result_bands(result_size)[0]
        band = result_size[1] * (rows.bottom - rows.top)
        pixels = max(band, *(view.size[0] * view.size[1] for view in image.views))
        planes = _PLANES + (len(image.views) > 1) + (self.refiner is not None)
        return max(1, min(self.memory_budget, _CHUNK) // (planes * 4 * pixels))

    def _best(
        self,
        full_logits: Callable[[Tensor], Tensor],
        queries: Tensor,
        chunk: int,
        rows: Rows,
        kept: KeptLogits | None = None,
    ) -> PixelMaximum:
        """The best class of each pixel of some rows; ``query`` is the index of the class."""
        if kept is None:
            best = reduce_queries(full_logits, queries, chunk)
        else:
            best = kept.reduce(full_logits, queries, chunk, rows)
        if not best.normalizer.isfinite().all():
            raise InputError(
                'the scores of an image are NaN or infinite; the weights are damaged, or half '
                'precision overflows: use float32'
            )
        return best._replace(query=self.query_class[best.query])

    def window_bytes(self, height: int, width: int) -> int:
        """Approximate memory of ``encode_pixels`` for a window: 64 full-size maps of three channels."""
        return 64 * 3 * 4 * height * width

    def windows_at_once(self, height: int, width: int) -> int:
        """Windows in a batch."""
        return self.slide.batch or max(1, self.memory_budget // self.window_bytes(height, width))

    def _encode_views(self, images: Sequence[Tensor], mirrored: bool) -> list[View]:
        """Encode images (3, h, w), in batches of windows within the memory budget."""
        dtype = next(self.parameters()).dtype
        images = [(image.flip(-1) if mirrored else image).to(dtype) for image in images]
        windows = [self.slide.windows((image.shape[-2], image.shape[-1])) for image in images]
        features = encode_windows(self.encode_pixels, images, windows, self.windows_at_once)
        return [
            View((image.shape[-2], image.shape[-1]), own, [features_fp32(part) for part in parts], mirrored)
            for image, own, parts in zip(images, windows, features, strict=True)
        ]

    def _full_logits(self, image: EncodedImage | EncodedRows, size: tuple[int, int]) -> Callable[..., Tensor]:
        """A function of queries (q,) that gives their logits (q, H, W): mean of the views, refined.

        With ``rows``, it computes only these rows of the logits.
        """
        text = self._text()
        views = [self.adapted(view) for view in image.views]
        joint = None
        if self.joint_over_classes:
            joint = [list(self._classify(view, text)) for view in views]
        affinity = None
        if self.refiner is not None:
            given = (image.given, image.height) if isinstance(image, EncodedRows) else None
            affinity = Refinement(self.refiner, image.image, size, given)

        def merged_views(queries: Tensor, rows: Rows) -> Tensor:
            total: Tensor | None = None
            for index, whole in enumerate(views):
                view = whole.crossing(view_rows(rows, whole.size, size))
                if joint is None:
                    logits = list(self._classify(view, text[queries]))
                else:
                    start = whole.windows.index(view.windows[0])
                    own = joint[index][start : start + len(view.windows)]
                    logits = [window[:, queries] for window in own]
                if self.adapter is not None:
                    logits = list(self._add_scores(view, queries, logits))
                merged = merge_windows(logits, view.windows, view.size, size, rows)  # (q, H, W)
                merged = merged.flip(-1) if view.mirrored else merged
                total = merged if total is None else total.add_(merged)
            assert total is not None
            return total if len(views) == 1 else total.div_(len(views))

        def full_logits(queries: Tensor, rows: Rows | None = None) -> Tensor:
            rows = Rows(0, size[0]) if rows is None else rows
            if affinity is None:
                return merged_views(queries, rows)
            wide = rows.widened(affinity.margin, size[0])
            return affinity.refine(merged_views(queries, wide), wide)[:, rows.within(wide)]

        return full_logits

    def _large_classes(self, reduce: Callable, queries: Tensor, size: tuple[int, int]) -> PixelLabels:
        """Classify again with the background and the classes above the area threshold.

        Source: SCLIP's ``area_thd``.  At most 1 / threshold classes are left, so the second round is short.
        """
        classes, logit, normalizer = assemble(size, reduce(queries))
        area = classes.flatten().bincount(minlength=self.num_classes)
        area[self.background_index] = 0
        kept = area > self.area_threshold * area.sum()
        if not torch.equal(kept, area > 0):
            kept[self.background_index] = True
            del classes, logit
            again = reduce(kept[self.query_class].nonzero().flatten())
            classes, logit = assemble(size, ((rows, best[:2]) for rows, best in again))
        return PixelLabels(classes, logit.sub_(normalizer).exp_())

    def _classify(self, view: View, text: Tensor) -> Iterator[Tensor]:
        """Scaled logits (1, q, h, w) of one window after another."""
        for features in view.features:
            yield from (self.classify_pixels(features, text) * self.logit_scale).split(1)

    def adapted(self, view: View) -> View:
        """The view with adapted pixel embeddings."""
        if self.adapter is None:
            return view
        features = []
        for part in view.features:
            own = self.pixel_embeddings(part).movedim(1, -1)  # (B, h, w, D)
            adapted = self.adapter.adapt_embeddings(own)
            features.append(
                part if adapted is own else self.with_pixel_embeddings(part, adapted.movedim(-1, 1))
            )
        return view._replace(features=features)

    def _add_scores(self, view: View, queries: Tensor, logits: Sequence[Tensor]) -> Iterator[Tensor]:
        """Logits (1, q, h, w) of each window, with the adapter's scores of their classes added."""
        assert self.adapter is not None
        assert self.vocabulary is not None
        classes, windows = self.query_class[queries], iter(logits)
        for part in view.features:
            embeddings = self.pixel_embeddings(part).movedim(1, -1)  # (B, h, w, D)
            scores = self.adapter.scores(embeddings, self.vocabulary, classes)  # (B, h, w, q)
            if scores is None:
                yield from windows
                return
            for one in scores.movedim(-1, 1).split(1):
                own = next(windows)
                yield own + self.fit_scores(one, (own.shape[-2], own.shape[-1])).to(own.dtype)

    def _predict(self, image: Tensor, sample: SegmentationSample) -> SegmentationSample:
        return replace(sample, prediction=self.segment(image, sample.size).classes)

    def _text(self) -> Tensor:
        if self.queries is None:
            raise InputError('no vocabulary is set; call set_vocabulary(vocabulary, embeddings) first')
        return self.queries
