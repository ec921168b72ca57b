"""Segment large images from file to file, in memory that does not grow with them.

(H, W): pixels, K: classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clipdense.utils.errors import InputError
from clipdense.utils.image_open import MAX_PIXELS
from clipdense.utils.mask_rows import mask_rows
from clipdense.utils.palette import class_palette
from clipdense.utils.rasters import Raster, RasterOptions, open_raster
from clipdense.vocab.vocabulary import Vocabulary

from .results import Segmentation

if TYPE_CHECKING:
    from torch import Tensor

    from clipdense.tasks.bands import Rows

    from .load import ClassNames
    from .segmenter import Segmenter

Band = tuple[int, Segmentation]  # the first row, and the result for this and the next rows
Progress = Callable[[Iterable[Band], str, int], Iterable[Band]]

_PREVIEW = 2048  # longest side of a preview, in pixels
_REDUCED = 4  # times
_MANY = 50_000_000  # pixels of an image from which its decoding at once is said


@dataclass(frozen=True, repr=False)
class SceneSegmentation:
    """What was found in a large image; its mask is in a file.

    Args:
        path: of the mask.
        size: (H, W).
        vocabulary: K classes.
        counts: (K,) pixels of each class.
        means: (K,) mean score of these pixels.
        preview: the reduced image with its mask.
        nodata: the mask's value of pixels without data; None if there are none.
    """

    path: Path
    size: tuple[int, int]
    vocabulary: Vocabulary
    counts: np.ndarray
    means: np.ndarray
    preview: Segmentation
    nodata: int | None = None

    def __repr__(self) -> str:
        """``SceneSegmentation(20000 x 20000, 3 classes, scene_mask.tif)``, width first."""
        return (
            f'SceneSegmentation({self.size[1]} x {self.size[0]}, {len(self.vocabulary)} classes, {self.path})'
        )

    def class_fractions(self) -> dict[str, float]:
        """Fraction of the pixels with data that each class covers, largest first, without absent classes."""
        order = np.argsort(-self.counts, kind='stable')
        total = max(1, int(self.counts.sum()))
        names = self.vocabulary.class_names
        return {names[index]: float(self.counts[index] / total) for index in order if self.counts[index]}

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON, as ``Segmentation.to_dict``; with pixels without data."""
        return {
            'height': self.size[0],
            'width': self.size[1],
            'classes': list(self.vocabulary.class_names),
            'nodata': self.nodata,
            'without_data': round(1 - float(self.counts.sum()) / (self.size[0] * self.size[1]), 6),
            'segments': [
                {
                    'class': name,
                    'class_index': self.vocabulary.index(name),
                    'fraction': round(fraction, 6),
                    'score': round(float(self.means[self.vocabulary.index(name)]), 4),
                }
                for name, fraction in self.class_fractions().items()
            ],
        }


def segment_scene(
    segmenter: Segmenter,
    path: str | Path,
    out: str | Path,
    class_names: ClassNames | None = None,
    options: RasterOptions | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> SceneSegmentation:
    """Segment a large image, reading, computing and writing a few rows at a time.

    The mask equals that of a call with the whole image.  Pixels without data, of a file that marks them, get
    the value 255, or 65535 with more than 255 classes.

    Args:
        segmenter: with ``window``, or with a ``short_side`` that suits the scene.
        path: of the image; a TIFF is read in rows if rasterio is installed (extra ``remote``).
        out: the mask: .tif, with the georeference of the image, or .png.
        class_names: see ``Segmenter``.
        options: which bands are used, and the range of their values.
        max_pixels: larger images are refused.
        progress: shows how far an iterable is: called with it, a description and its length.

    Raises:
        InputError: see ``open_raster`` and ``Segmenter.stream_rows``.
        WriteError: the mask cannot be written.

    Example:
        >>> options = clipdense.SegmentationOptions(window=224)
        >>> segmenter = clipdense.Segmenter.from_pretrained('ViT-B-16/openai', options=options)
        >>> segment_scene(segmenter, 'scene.tif', 'mask.tif', ['building', 'road', 'tree'])
    """
    if Path(path).resolve() == Path(out).resolve():
        raise InputError(f'{out} is the image itself: write the mask to another file')
    with open_raster(path, options, max_pixels) as raster:
        if not raster.reads_rows and raster.size[0] * raster.size[1] > _MANY:
            gigabytes = 4e-9 * raster.size[0] * raster.size[1]
            warnings.warn(
                f'{path} is decoded at once, in {gigabytes:.1f} GB: TIFF and PNG files are read in rows if '
                "rasterio is installed (pip install 'clipdense[remote]')"
            )
        _tell_scale(segmenter, raster.size, path)
        bands: Iterable[Band] = segmenter.stream_rows(_RasterRows(raster), class_names)
        if progress is not None:
            bands = progress(bands, f'segmenting {path}', len(segmenter.model.result_bands(raster.size)))
        assert segmenter.vocabulary is not None
        return _written(bands, raster, Path(out), segmenter.vocabulary)


def _tell_scale(segmenter: Segmenter, size: tuple[int, int], path: str | Path) -> None:
    """Warn where the image is reduced so much that small objects are lost."""
    slide = segmenter.options.slide(segmenter.model.slide)
    times = size[0] / slide.resized(size, segmenter.model.patch_size)[0]
    if times > _REDUCED:
        warnings.warn(
            f'{path} is reduced {times:.3g} times before it is segmented; short_side=0 (--short-side 0) '
            'keeps its size, with windows of the size that the model was trained with (--window)'
        )


class _RasterRows:
    """A raster as ``Segmenter.stream_rows`` takes it."""

    def __init__(self, raster: Raster) -> None:
        self.raster, self.size = raster, raster.size

    def read(self, rows: Rows) -> Tensor:
        import torch

        return torch.from_numpy(self.raster.read(rows.top, rows.bottom)).permute(2, 0, 1)


def _written(bands: Iterable[Band], raster: Raster, out: Path, vocabulary: Vocabulary) -> SceneSegmentation:
    names = vocabulary.marking_background()
    background = None if names.background is None else names.index(names.background)
    count = len(vocabulary)
    palette = class_palette(count, background) if count + raster.has_gaps <= 256 else None
    gap = 255 if palette is not None else 65535
    nodata = gap if raster.has_gaps else None
    writer = mask_rows(out, raster.size, palette, raster.georeference, nodata)
    counts, sums = np.zeros(count, np.int64), np.zeros(count)
    preview = _Preview(raster.size)
    try:
        for top, result in bands:
            bottom = top + len(result.mask)
            mask, valid = result.mask, raster.valid(top, bottom)
            preview.add(top, raster.read(top, bottom), result)
            known = slice(None) if valid is None else valid
            counts += np.bincount(mask[known].ravel(), minlength=count)
            sums += np.bincount(mask[known].ravel(), result.scores[known].ravel(), minlength=count)
            writer.write(mask if valid is None else np.where(valid, mask, gap))
        writer.finish()
    finally:
        writer.discard()
    means = sums / np.maximum(counts, 1)
    return SceneSegmentation(out, raster.size, vocabulary, counts, means, preview.result(vocabulary), nodata)


class _Preview:
    """Every n-th pixel of the image, the mask and the scores."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.step = -(-max(size) // _PREVIEW)
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, top: int, image: np.ndarray, result: Segmentation) -> None:
        """Add the rows that begin at ``top``."""
        at = slice(-top % self.step, None, self.step), slice(None, None, self.step)
        self.parts.append((image[at].copy(), result.mask[at].copy(), result.scores[at].copy()))

    def result(self, vocabulary: Vocabulary) -> Segmentation:
        """The reduced image and its mask."""
        image, mask, scores = (np.concatenate(parts) for parts in zip(*self.parts, strict=True))
        return Segmentation(mask, scores, vocabulary, Image.fromarray(image))
