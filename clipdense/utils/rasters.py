"""Read large images a few rows at a time: GeoTIFF of any number of bands, and PNG, with rasterio.

Without rasterio (extra ``remote``), and for other formats, the image is decoded at once by Pillow, which
takes 4 bytes for each pixel.  (H, W): pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .errors import InputError, MissingPackage
from .files import regular_file
from .image_io import ORIENTATION, on_white, read_image
from .image_open import MAX_PIXELS, check_pixels, opened

_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_CACHE = 64 << 20  # bytes of decoded blocks that GDAL keeps
_BEGINNING = 4  # bytes
_PHOTOMETRIC = 262  # tag of TIFF; 0: the smallest value is white


@dataclass(frozen=True)
class RasterOptions:
    """How the bands of a file become RGB.

    Args:
        bands: numbers of the bands, from 1: red, green and blue, or one for gray; None takes the file's own.
        value_range: the values that become black and white; None takes those of 8 bits.

    Raises:
        InputError: not one or three numbers of at least 1, or a range that is not increasing.
    """

    bands: tuple[int, ...] | None = None
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.bands is not None and (len(self.bands) not in (1, 3) or min(self.bands) < 1):
            raise InputError(
                f'bands must be three numbers from 1 (red, green, blue) or one (gray), got {self.bands}'
            )
        if self.value_range is not None:
            low, high = self.value_range
            if not (np.isfinite([low, high]).all() and low < high):
                raise InputError(f'value_range must be two increasing numbers, got {low:g}, {high:g}')


class Raster:
    """An image of which some rows are read at a time.

    Attributes:
        size: (H, W).
        reads_rows: whether memory does not grow with the image.
        has_gaps: whether there may be pixels without data.
        georeference: ``crs`` and ``transform`` for rasterio; empty without them.
    """

    size: tuple[int, int]
    reads_rows: bool = False
    has_gaps: bool = False

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.georeference: dict[str, Any] = {}

    def read(self, top: int, bottom: int) -> np.ndarray:
        """(n, W, 3) uint8 RGB."""
        raise NotImplementedError

    def valid(self, top: int, bottom: int) -> np.ndarray | None:
        """(n, W) bool: pixels that have data; None where all have."""
        return None


@contextmanager
def open_raster(
    path: str | Path, options: RasterOptions | None = None, max_pixels: int = MAX_PIXELS
) -> Iterator[Raster]:
    """Open an image to be read in rows.

    Args:
        path: the file.
        options: choice and range of bands; rasterio is needed for them.
        max_pixels: larger images are refused.

    Raises:
        InputError: as ``read_image``; bands without known meaning or range; or a damaged file.
        MissingPackage: rasterio is needed and not installed.
    """
    options, path = options or RasterOptions(), regular_file(path)
    if (driver := _driver(path, options)) is None:
        yield _Decoded(read_image(path, max_pixels))
        return
    import rasterio

    with rasterio.Env(GDAL_CACHEMAX=_CACHE, GDAL_NUM_THREADS=1), _opened(path, driver) as dataset:
        check_pixels((dataset.width, dataset.height), max_pixels, str(path))
        yield _Rows(dataset, path, options)


def check_raster(path: str | Path, options: RasterOptions, max_pixels: int = MAX_PIXELS) -> None:
    """Check what can be known of an image before its pixels are read.

    Raises:
        InputError: as ``open_raster``.
    """
    if _driver(regular_file(path), options) is not None:
        with open_raster(path, options, max_pixels):
            return
    with opened(path, max_pixels):
        return


class _Decoded(Raster):
    """An image that was decoded at once."""

    def __init__(self, image: Image.Image) -> None:
        super().__init__((image.height, image.width))
        self.image = image

    def read(self, top: int, bottom: int) -> np.ndarray:
        return np.array(self.image.crop((0, top, self.image.width, bottom)))


@dataclass
class _Kept:
    """The rows that were read last."""

    top: int = 0
    rows: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))

    @property
    def bottom(self) -> int:
        return self.top + len(self.rows)


class _Rows(Raster):
    """A file that GDAL reads."""

    reads_rows = True

    def __init__(self, dataset: Any, path: Path, options: RasterOptions) -> None:
        super().__init__((dataset.height, dataset.width))
        self.dataset, self.path, self.options = dataset, path, options
        self.bands, self._alpha = _chosen_bands(dataset, path, options)
        self._table = _color_table(dataset, self.bands)
        self._scale = _value_scale(dataset, path, self.bands, options)
        self._kept, self._told = _Kept(), False
        if dataset.crs is not None or not dataset.transform.is_identity:
            self.georeference = {'crs': dataset.crs, 'transform': dataset.transform}
        self.has_gaps = dataset.nodata is not None or self._alpha is not None

    def read(self, top: int, bottom: int) -> np.ndarray:
        kept = self._kept
        if not kept.top <= top < kept.bottom:
            kept = _Kept(top, self._converted(top, bottom))
        elif bottom > kept.bottom:
            more = self._converted(kept.bottom, bottom)
            kept = _Kept(top, np.concatenate([kept.rows[top - kept.top :], more]))
        self._kept = kept
        return kept.rows[top - kept.top : bottom - kept.top]

    def valid(self, top: int, bottom: int) -> np.ndarray | None:
        if not self.has_gaps:
            return None
        if self._alpha is not None:
            return self._values([self._alpha], top, bottom)[0] > 0
        return (self.dataset.read_masks(list(self.bands), window=self._window(top, bottom)) > 0).any(axis=0)

    def _converted(self, top: int, bottom: int) -> np.ndarray:
        values = self._values(self.bands, top, bottom)  # (b, n, W)
        if self._table is not None:
            return self._table[values[0]]
        if self._scale is not None:
            values = self._scaled(values)
        if len(values) == 1:
            values = values.repeat(3, axis=0)
        rows = np.ascontiguousarray(values.transpose(1, 2, 0))
        if self._alpha is None:
            return rows
        alpha = self._values([self._alpha], top, bottom)[0]
        return np.asarray(on_white(Image.fromarray(np.dstack([rows, alpha]))))

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        assert self._scale is not None
        low, high = self._scale
        if values.dtype.kind == 'f' and not np.isfinite(values).all():
            values = np.where(np.isfinite(values), values, low)
            if not self._told and not self.has_gaps:
                self._told = True
                warnings.warn(f'{self.path} has values that are NaN or infinite; they are read as {low:g}')
        factor = np.float32(255 / (high - low))
        return ((values.astype(np.float32) - np.float32(low)) * factor + 0.5).clip(0, 255).astype(np.uint8)

    def _values(self, bands: Sequence[int], top: int, bottom: int) -> np.ndarray:
        """(b, n, W) of any type; in two parts, as GDAL ignores errors of a PNG that it reads as a whole."""
        middle = (top + bottom + 1) // 2
        try:
            parts = [
                self.dataset.read(list(bands), window=self._window(first, last))
                for first, last in ((top, middle), (middle, bottom))
                if first < last
            ]
        except Exception as error:  # rasterio's own errors
            raise InputError(f'{self.path} is damaged or truncated: {_reason(error)}') from error
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _window(self, top: int, bottom: int) -> tuple[tuple[int, int], tuple[int, int]]:
        return (top, bottom), (0, self.size[1])


def has_rasterio() -> bool:
    """Whether rasterio is installed; does not import it."""
    return find_spec('rasterio') is not None


def _driver(path: Path, options: RasterOptions) -> str | None:
    """The driver of GDAL that reads the rows of a file; None where Pillow decodes it at once.

    Raises:
        InputError: options for another format.
        MissingPackage: options, but no rasterio.
    """
    with path.open('rb') as file:
        beginning = file.read(_BEGINNING)
    tiff = beginning in _TIFF
    if not tiff and options != RasterOptions():
        raise InputError(f'{path} is not a TIFF file, which bands and value_range are for: remove them')
    if not has_rasterio():
        if options != RasterOptions():
            raise MissingPackage("bands and value_range need rasterio: pip install 'clipdense[remote]'")
        return None
    if tiff:
        return 'GTiff' if options != RasterOptions() or _as_gdal_reads(path) else None
    return 'PNG' if beginning == b'\x89PNG' and _is_plain(path) else None


def _as_gdal_reads(path: Path) -> bool:
    """Whether GDAL reads a TIFF as Pillow does: it neither turns images, nor inverts or converts colors."""
    try:
        with opened(path, 1 << 62) as (image, _):
            turned = image.getexif().get(ORIENTATION, 1) != 1
            inverted = image.getexif().get(_PHOTOMETRIC) == 0
            return not turned and not inverted and image.mode not in ('1', 'CMYK', 'LAB', 'YCbCr')
    except InputError:  # of bands or values that Pillow does not know
        return True


def _is_plain(path: Path) -> bool:
    """Whether GDAL reads a PNG like Pillow, by rows: RGB or gray of 8 bits, without transparency."""
    with opened(path, 1 << 62) as (image, _):
        return image.height > 1 and image.mode in ('RGB', 'L') and 'transparency' not in image.info


def _opened(path: Path, driver: str) -> Any:
    """The data set of a file; only this driver, so that a file cannot name others.

    Raises:
        InputError: damaged.
    """
    import rasterio

    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # NotGeoreferencedWarning
            return rasterio.open(path.absolute(), driver=driver)
    except Exception as error:  # rasterio's own errors
        raise InputError(f'{path} is damaged or truncated: {_reason(error)}') from error


def _reason(error: Exception) -> str:
    return str(error.__cause__ or error).strip().splitlines()[0]


def _chosen_bands(dataset: Any, path: Path, options: RasterOptions) -> tuple[tuple[int, ...], int | None]:
    """The bands that become RGB or gray, and the one with the opacity.

    Raises:
        InputError: the file has no such band, or does not say which bands are red, green and blue.
    """
    meaning = {kind.name: index for index, kind in reversed(list(enumerate(dataset.colorinterp, 1)))}
    alpha = meaning.get('alpha') if dataset.dtypes[0] == 'uint8' else None
    if options.bands is not None:
        if max(options.bands) > dataset.count:
            raise InputError(f'{path} has {dataset.count} bands, and no band {max(options.bands)}')
        return options.bands, alpha
    colors = [meaning.get(name) for name in ('red', 'green', 'blue')]
    found = tuple(one for one in colors if one is not None)
    if len(found) == 3:
        return found, alpha
    if dataset.count == 1 or (dataset.count == 2 and alpha == 2):
        return (1,), alpha
    names = [name or f'band {index}' for index, name in enumerate(dataset.descriptions, 1)]
    raise InputError(
        f'{path} has {dataset.count} bands and does not say which are red, green and blue '
        f'({", ".join(names[:12])}): choose three, as in bands 3,2,1 (--bands)'
    )


def _color_table(dataset: Any, bands: Sequence[int]) -> np.ndarray | None:
    """(256, 3) the colors of a palette file."""
    if len(bands) != 1 or dataset.colorinterp[bands[0] - 1].name != 'palette':
        return None
    table = np.zeros((256, 3), np.uint8)
    for index, color in dataset.colormap(bands[0]).items():
        if index < len(table):
            table[index] = color[:3]
    return table


def _value_scale(
    dataset: Any, path: Path, bands: Sequence[int], options: RasterOptions
) -> tuple[float, float] | None:
    """The values that become black and white; None where they stay as they are.

    Raises:
        InputError: values of more than 8 bits, whose range is not known.
    """
    if options.value_range is not None:
        return options.value_range
    types = {dataset.dtypes[band - 1] for band in bands}
    if types == {'uint8'}:
        bits = int(dataset.tags(bands[0], ns='IMAGE_STRUCTURE').get('NBITS', 8))
        return None if bits == 8 else (0, 2**bits - 1)
    raise InputError(
        f'{path} has values of {", ".join(sorted(types))}, whose range is not known: say which become black '
        'and white, as in value_range 0,3000 (--value-range; 0,65535 for all of 16 bits)'
    )
