"""Write class indices a few rows at a time: PNG, or GeoTIFF with rasterio.  (H, W): pixels."""

from __future__ import annotations

import contextlib
import os
import struct
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import InputError, MissingPackage, WriteError
from .files import explain_write_error, output_file
from .image_io import voc_palette
from .rasters import has_rasterio

_TILE = 512  # side of the tiles of a TIFF


class MaskRows(ABC):
    """A mask that is written from top to bottom under another name, which is replaced by ``finish``.

    Args:
        path: of the file.
        size: (H, W).
        palette: (n, 3) uint8 colors of the first n indices; None for masks with indices above 255.

    Raises:
        WriteError: the file cannot be written.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], palette: np.ndarray | None) -> None:
        self.path, self.size, self.written = output_file(path), size, 0
        self.dtype: Any = np.uint16 if palette is None else np.uint8
        self._partial = self.path.with_name(f'.{self.path.stem[:100]}.partial{self.path.suffix}')
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(explain_write_error(error, self.path)) from error

    def write(self, rows: np.ndarray) -> None:
        """Add rows (n, W).

        Raises:
            ValueError: another width, or more rows than the mask has.
            WriteError: the disk is full.
        """
        if rows.shape[1] != self.size[1] or self.written + len(rows) > self.size[0]:
            raise ValueError(f'got {rows.shape} after {self.written} rows of {self.size}')
        self._try(lambda: self._write(np.ascontiguousarray(rows, self.dtype)))
        self.written += len(rows)

    def finish(self) -> None:
        """Close the file and give it its name.

        Raises:
            WriteError: the disk is full.
        """
        self._try(self._close)
        os.replace(self._partial, self.path)

    def discard(self) -> None:
        """Remove what was written, if it is not finished."""
        with contextlib.suppress(Exception):  # of a file that is removed
            self._release()
        self._partial.unlink(missing_ok=True)

    def _try(self, act: Any) -> None:
        try:
            act()
        except Exception as error:  # the system's errors, or rasterio's own
            cause = error if isinstance(error, OSError) and error.errno else None
            text = f'{self.path} could not be written: {error}; the disk may be full'
            raise WriteError(text if cause is None else explain_write_error(cause, self.path)) from error

    @abstractmethod
    def _write(self, rows: np.ndarray) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _release(self) -> None: ...


class PngRows(MaskRows):
    """A palette PNG of 8 bits, or a gray one of 16, as ``write_mask`` writes them."""

    def __init__(self, path: str | Path, size: tuple[int, int], palette: np.ndarray | None) -> None:
        super().__init__(path, size, palette)
        self._file: IO[bytes] | None = None
        self._packer = zlib.compressobj(6)
        self._try(lambda: self._begin(palette))

    def _begin(self, palette: np.ndarray | None) -> None:
        self._file = self._partial.open('wb')
        self._file.write(b'\x89PNG\r\n\x1a\n')
        height, width = self.size
        depth, kind = (16, 0) if palette is None else (8, 3)  # gray, or palette
        self._chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, kind, 0, 0, 0))
        if palette is not None:
            colors = voc_palette()
            colors[: len(palette)] = palette[:256]
            self._chunk(b'PLTE', colors.tobytes())

    def _write(self, rows: np.ndarray) -> None:
        values = rows.astype('>u2').view(np.uint8) if rows.dtype == np.uint16 else rows
        lines = np.zeros((len(values), 1 + values.shape[1]), np.uint8)  # each begins with its filter, none
        lines[:, 1:] = values
        self._chunk(b'IDAT', self._packer.compress(lines.tobytes()))

    def _close(self) -> None:
        assert self._file is not None
        self._chunk(b'IDAT', self._packer.flush())
        self._chunk(b'IEND', b'')
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()

    def _chunk(self, name: bytes, data: bytes) -> None:
        assert self._file is not None
        if data or name == b'IEND':
            check = zlib.crc32(name + data)
            self._file.write(struct.pack('>I', len(data)) + name + data + struct.pack('>I', check))


class TiffRows(MaskRows):
    """A tiled, compressed GeoTIFF.

    Args:
        path, size, palette: see ``MaskRows``.
        georeference: ``crs`` and ``transform`` of the image; may be empty.
        nodata: index of pixels without data.

    Raises:
        MissingPackage: rasterio is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        palette: np.ndarray | None,
        georeference: Mapping[str, Any] | None = None,
        nodata: int | None = None,
    ) -> None:
        if not has_rasterio():
            raise MissingPackage("masks as TIFF need rasterio: pip install 'clipdense[remote]'")
        super().__init__(path, size, palette)
        self._pending: list[np.ndarray] = []
        self._flushed = 0
        self._dataset: Any = None
        profile = {**(georeference or {}), 'nodata': nodata}
        self._try(lambda: self._begin(palette, profile))

    def _begin(self, palette: np.ndarray | None, profile: Mapping[str, Any]) -> None:
        import rasterio

        layout = {'tiled': True, 'blockxsize': _TILE, 'blockysize': _TILE, 'compress': 'deflate'}
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # NotGeoreferencedWarning
            self._dataset = rasterio.open(
                self._partial,
                'w',
                driver='GTiff',
                height=self.size[0],
                width=self.size[1],
                count=1,
                dtype=np.dtype(self.dtype).name,
                BIGTIFF='IF_SAFER',
                **layout,
                **profile,
            )
        if palette is not None:
            colors = {index: (*color, 255) for index, color in enumerate(palette[:256].tolist())}
            self._dataset.write_colormap(1, colors)

    def _write(self, rows: np.ndarray) -> None:
        self._pending.append(rows)
        waiting = sum(len(part) for part in self._pending)
        if waiting >= _TILE:
            self._flush(waiting - waiting % _TILE)  # whole tiles, which are written once

    def _flush(self, count: int) -> None:
        rows = np.concatenate(self._pending) if self._pending else np.empty((0, self.size[1]), self.dtype)
        if count:
            window = (self._flushed, self._flushed + count), (0, self.size[1])
            self._dataset.write(rows[:count], 1, window=window)
        self._pending, self._flushed = [rows[count:]], self._flushed + count

    def _close(self) -> None:
        self._flush(sum(len(part) for part in self._pending))
        self._release()

    def _release(self) -> None:
        dataset, self._dataset = self._dataset, None
        if dataset is not None:
            dataset.close()


def mask_rows(
    path: Path,
    size: tuple[int, int],
    palette: np.ndarray | None,
    georeference: Mapping[str, Any] | None = None,
    nodata: int | None = None,
) -> MaskRows:
    """The writer for the suffix of a path.

    Args:
        path: ends in .png or .tif.
        size, palette, georeference, nodata: see ``TiffRows``; the last two have no place in a PNG.

    Raises:
        InputError: another suffix.
    """
    if path.suffix.lower() in ('.tif', '.tiff'):
        return TiffRows(path, size, palette, georeference, nodata)
    if path.suffix.lower() == '.png':
        return PngRows(path, size, palette)
    raise InputError(f'masks of large images are written as .png or .tif, got {path}')
