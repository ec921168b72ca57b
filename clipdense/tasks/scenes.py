"""Segment images that are too large to be encoded at once, in bands of rows.

Windows are encoded in the order and the batches of ``encode_images``, each once, and kept while a band
depends on them: the result is that of the whole image, to the last bit.

(H, W): pixels, (h, w): pixels of a resized image, B: windows of a batch.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from clipdense.layers.precision import no_autocast
from clipdense.utils.errors import InputError

from .bands import Rows, assemble, resize_rows, view_rows
from .segmentation import SegmentationModel
from .views import EncodedRows, PixelLabels, View, features_fp32, tensors_of
from .windows import Window

MAX_FEATURES = 4 << 30  # bytes of the features that a band depends on
MANY_WINDOWS = 256  # windows of an image that are not all encoded at once


class RowSource(Protocol):
    """An image of which some rows are read at a time."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""

    def read(self, rows: Rows) -> Tensor:
        """(3, n, W) uint8, on any device, channels last in memory."""


class TensorRows:
    """An image in memory.

    Args:
        image: (3, H, W) uint8.
    """

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.size = (image.shape[-2], image.shape[-1])

    def read(self, rows: Rows) -> Tensor:
        """(3, n, W), a view."""
        return self.image[:, rows.top : rows.bottom]


class Scene:
    """An image that is encoded in bands of rows, from top to bottom.

    Args:
        model: the segmenter; its vocabulary may change between two bands, its options may not.
        source: the image.
        max_features: bytes of features that may be kept.

    Raises:
        InputError: windows that do not fit the model.
    """

    def __init__(self, model: SegmentationModel, source: RowSource, max_features: int = MAX_FEATURES) -> None:
        model.check_windows()
        self.model, self.source, self.max_features = model, source, max_features
        self._resized: dict[tuple[int, int], Tensor] = {}
        sizes = [
            (model.slide.resized(source.size, model.patch_size, scale), mirrored)
            for scale, mirrored in model.slide.views()
        ]
        self._views = [_Windows(self, size, mirrored) for size, mirrored in sizes]
        self._size = model.slide.resized(source.size, model.patch_size)

    @torch.no_grad()
    def encode(self, rows: Rows) -> EncodedRows:
        """What some rows of the result depend on; bands must be asked from top to bottom.

        Raises:
            InputError: the features of the rows take more memory than is allowed.
        """
        size, refiner, given = self.source.size, self.model.refiner, Rows(0, 0)
        if refiner is not None:
            rows = rows.widened(getattr(refiner, 'reach', size[0]), size[0])
            given = view_rows(rows, self._size, size)
        views = [view.encode(view_rows(rows, view.size, size)) for view in self._views]
        return EncodedRows(self.normalized(self._size, given), views, given, self._size[0])

    def pixels(self, size: tuple[int, int], rows: Rows) -> Tensor:
        """Some rows of the resized image, (3, n, w): uint8 at full size, else normalized."""
        device = next(self.model.parameters()).device
        if size == self.source.size:
            return self.source.read(rows).to(device)
        if size not in self._resized:
            with no_autocast(device):
                self._resized[size] = resize_rows(
                    lambda part: self.source.read(part).to(device),
                    self.source.size,
                    size,
                    self.model.data_preprocessor.normalize,
                    self.model.band_pixels,
                )
        return self._resized[size][:, rows.top : rows.bottom]

    def normalized(self, size: tuple[int, int], rows: Rows) -> Tensor:
        """Some rows of the resized image, (3, n, w) normalized."""
        if rows.top == rows.bottom:
            return torch.empty(3, 0, size[1], device=next(self.model.parameters()).device)
        pixels = self.pixels(size, rows)
        with no_autocast(pixels.device):
            return self.model.data_preprocessor.normalize(pixels) if pixels.dtype == torch.uint8 else pixels


class _Windows:
    """The windows of a view, encoded when they are needed."""

    def __init__(self, scene: Scene, size: tuple[int, int], mirrored: bool) -> None:
        self.scene, self.size, self.mirrored = scene, size, mirrored
        self.windows = scene.model.slide.windows(size)
        self.step = scene.model.windows_at_once(*self.windows[0].size)
        self._encoded: dict[int, Any] = {}

    def encode(self, rows: Rows) -> View:
        """The batches that have windows in these rows."""
        places = [
            place for place, one in enumerate(self.windows) if one.top < rows.bottom and rows.top < one.bottom
        ]
        batches = range(places[0] // self.step, places[-1] // self.step + 1)
        self._encoded = {batch: kept for batch, kept in self._encoded.items() if batch in batches}
        for batch in batches:
            if batch not in self._encoded:
                self._encoded[batch] = self._encode(self._of(batch))
                self._check_memory(self._encoded[batch], len(batches))
        windows = [one for batch in batches for one in self._of(batch)]
        return View(self.size, windows, [self._encoded[batch] for batch in batches], self.mirrored)

    def _of(self, batch: int) -> list[Window]:
        return self.windows[batch * self.step : (batch + 1) * self.step]

    def _encode(self, windows: list[Window]) -> Any:
        model = self.scene.model
        rows = Rows(min(one.top for one in windows), max(one.bottom for one in windows))
        pixels = self.scene.pixels(self.size, rows)
        pixels = pixels.flip(-1) if self.mirrored else pixels
        cut = [pixels[:, one.top - rows.top : one.bottom - rows.top, one.left : one.right] for one in windows]
        images = torch.stack(cut)
        if images.dtype == torch.uint8:
            with no_autocast(images.device):
                images = model.data_preprocessor.normalize(images)
        return features_fp32(model.encode_pixels(images.to(next(model.parameters()).dtype)))

    def _check_memory(self, features: Any, batches: int) -> None:
        taken = batches * sum(one.numel() * one.element_size() for one in tensors_of(features))
        if taken > self.scene.max_features:
            raise InputError(
                f'the windows of a band of an image {self.scene.source.size[1]} pixels wide have '
                f'{taken / 1e9:.1f} GB of features, more than {self.scene.max_features / 1e9:.1f}: use a '
                'larger stride, resize the image (short_side), or cut it into tiles'
            )


def segment_large(model: SegmentationModel, image: Tensor, dtype: torch.dtype = torch.int64) -> PixelLabels:
    """``model.segment`` of an image (3, H, W) uint8, in memory for the features of a band only."""
    scene = Scene(model, TensorRows(image))
    size = scene.source.size
    found = (
        (rows, model.classify_rows(scene.encode(rows), size, rows, dtype)[:2])
        for rows in model.result_bands(size)
    )
    return PixelLabels(*assemble(size, found))


def has_many_windows(model: SegmentationModel, size: tuple[int, int]) -> bool:
    """Whether an image (H, W) is worth ``segment_large``, and the options of the model allow it."""
    if model.area_threshold and model.background_index is not None:
        return False
    sizes = [model.slide.resized(size, model.patch_size, scale) for scale in model.slide.scales]
    return sum(len(model.slide.windows(one)) for one in sizes) > MANY_WINDOWS
