"""The table below "Large images" of docs/input_contract.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdense.utils import rasters
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image
from clipdense.utils.rasters import RasterOptions, open_raster

rasterio = pytest.importorskip('rasterio', reason='the extra remote is not installed')

SECTION = 'Large images'
SIZE = (70, 50)  # width, height
NOISE = np.random.default_rng(0).integers(0, 256, (50, 70, 4), dtype=np.uint8)
RGB = NOISE[..., :3]


def _rows(path: Path, step: int = 16, **options) -> np.ndarray:
    """All rows, read in bands that overlap by one row."""
    max_pixels = options.pop('max_pixels', 10**6)
    with open_raster(path, RasterOptions(**options), max_pixels) as raster:
        height = raster.size[0]
        parts = [raster.read(max(0, top - 1), min(top + step, height)) for top in range(0, height, step)]
        return np.concatenate([parts[0], *(part[1:] for part in parts[1:])])


def _reads_rows(path: Path, **options) -> bool:
    with open_raster(path, RasterOptions(**options)) as raster:
        return raster.reads_rows


def _same(path: Path, by_rows: bool = True) -> None:
    assert _reads_rows(path) == by_rows
    assert np.array_equal(_rows(path), np.asarray(read_image(path)))


def _saved(path: Path, mode: str, **options) -> Path:
    Image.fromarray(RGB).convert(mode).save(path, **options)
    return path


def _bands(folder: Path, bands: np.ndarray, **profile) -> Path:
    """A GeoTIFF of bands (b, H, W)."""
    path = folder / 'bands.tif'
    profile['transform'] = rasterio.Affine(1, 0, 100, 0, -1, 200)
    with rasterio.open(
        path, 'w', driver='GTiff', width=70, height=50, count=len(bands), dtype=bands.dtype, **profile
    ) as file:
        file.write(bands)
    return path


def _five(folder: Path, dtype: type = np.uint8) -> Path:
    extra = np.zeros((2, 50, 70), np.uint8)
    return _bands(
        folder, np.concatenate([extra, RGB.transpose(2, 0, 1)]).astype(dtype), photometric='minisblack'
    )


def _tiffs(folder: Path) -> None:
    for mode in ('RGB', 'L'):
        for compression in (None, 'tiff_deflate', 'tiff_lzw', 'packbits'):
            _same(_saved(folder / 'a.tif', mode, compression=compression))
    tiled = {'tiled': True, 'blockxsize': 32, 'blockysize': 16, 'photometric': 'rgb'}
    assert np.array_equal(_rows(_bands(folder, RGB.transpose(2, 0, 1), **tiled)), RGB)


def _transparent(folder: Path) -> None:
    path = folder / 'a.tif'
    Image.fromarray(NOISE).save(path)
    _same(path)
    with open_raster(path) as raster:
        assert np.array_equal(raster.valid(3, 9), NOISE[3:9, :, 3] > 0)


def _pngs(folder: Path) -> None:
    _same(_saved(folder / 'a.png', 'RGB'))
    _same(_saved(folder / 'b.png', 'L'))


def _others(folder: Path) -> None:
    Image.fromarray(NOISE).save(folder / 'a.png')
    turned = Image.Exif()
    turned[0x0112] = 6
    files = [
        folder / 'a.png',
        _saved(folder / 'b.png', 'P'),
        _saved(folder / 'c.jpg', 'RGB'),
        _saved(folder / 'd.tif', 'CMYK'),
        _saved(folder / 'e.tif', 'RGB', exif=turned),
        _saved(folder / 'f.tif', '1'),
    ]
    for file in files:
        _same(file, by_rows=False)


def _without_data(folder: Path) -> None:
    path = _bands(folder, RGB.transpose(2, 0, 1), photometric='rgb', nodata=0)
    with open_raster(path) as raster:
        assert raster.has_gaps
        assert np.array_equal(raster.valid(0, 50), (RGB > 0).any(axis=2))


def _marked(folder: Path) -> None:
    path = _bands(folder, NOISE.transpose(2, 0, 1), photometric='rgb', alpha='unspecified')
    assert np.array_equal(_rows(path), RGB)


def _chosen(folder: Path) -> None:
    assert np.array_equal(_rows(_five(folder), bands=(3, 4, 5)), RGB)
    assert np.array_equal(_rows(_five(folder), bands=(5, 4, 3)), RGB[..., ::-1])
    assert np.array_equal(_rows(_five(folder), bands=(4,)), RGB[..., [1, 1, 1]])


def _wide(folder: Path, **options) -> list[np.ndarray]:
    kinds = (np.uint16, np.int16, np.uint32, np.float32, np.float64)
    return [_rows(_five(folder, dtype), bands=(3, 4, 5), **options) for dtype in kinds]


def _refused_wide(folder: Path) -> None:
    for dtype in (np.uint16, np.int16, np.float64):
        with pytest.raises(InputError, match='range is not known'):
            _rows(_five(folder, dtype), bands=(3, 4, 5))
    _rows(_five(folder, np.float32), bands=(3, 4, 5))


def _ranged(folder: Path) -> None:
    for found in _wide(folder, value_range=(0, 255)):
        assert np.array_equal(found, RGB)
    expected = ((RGB.astype(float) - 50) * 255 / 100 + 0.5).clip(0, 255).astype(np.uint8)
    for found in _wide(folder, value_range=(50, 150)):
        assert np.abs(found.astype(int) - expected).max() <= 1


def _nan(folder: Path) -> None:
    values = RGB.transpose(2, 0, 1).astype(np.float32)
    values[0, 0, 0] = np.nan
    found = _rows(_bands(folder, values, photometric='rgb'), value_range=(0, 255))
    assert found[0, 0, 0] == 0


def _no_package(folder: Path) -> None:
    path = _five(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rasters, 'has_rasterio', lambda: False)
        _same(_saved(folder / 'a.tif', 'RGB'), by_rows=False)
        _rows(path, bands=(3, 4, 5))


def _truncated(folder: Path) -> None:
    tiled = _bands(
        folder, RGB.transpose(2, 0, 1), photometric='rgb', tiled=True, blockxsize=32, blockysize=16
    )
    files = (
        _saved(folder / 'a.png', 'RGB'),
        _saved(folder / 'b.png', 'L'),
        _saved(folder / 'c.tif', 'RGB'),
        tiled,
    )
    for path in files:
        whole = path.read_bytes()
        for part in (0.3, 0.6, 0.9):
            path.write_bytes(whole[: int(len(whole) * part)])
            for step in (50, 16, 7):
                with pytest.raises(InputError, match='is damaged or truncated'):
                    _rows(path, step)
    _rows(path)


READ = {
    'TIFF of RGB or gray, 8 bits; in tiles or strips, with any compression': _tiffs,
    'TIFF of RGBA': _transparent,
    'palette TIFF': lambda folder: _same(_saved(folder / 'a.tif', 'P')),
    'PNG of RGB or gray, 8 bits': _pngs,
    'PNG with transparency or a palette, JPEG, CMYK TIFF, TIFF with an orientation': _others,
    'TIFF with a nodata value': _without_data,
    'four bands or more, of which three are marked red, green and blue': _marked,
    'other bands than three marked ones': lambda folder: _rows(_five(folder)),
    'the same with `bands`': _chosen,
    'a band that the file does not have': lambda folder: _rows(_five(folder), bands=(1, 2, 6)),
    '`bands` of two numbers, or from 0': lambda folder: _rows(_five(folder), bands=(0, 1, 2)),
    'values of 16 or 32 bits, or floats': _refused_wide,
    'the same with `value_range`': _ranged,
    'NaN in floats, without a nodata value': _nan,
    'a `value_range` that does not increase': lambda folder: _rows(_five(folder), value_range=(9, 9)),
    '`bands` or `value_range` for PNG': lambda folder: _rows(
        _saved(folder / 'a.png', 'RGB'), bands=(1, 2, 3)
    ),
    '`bands` without rasterio': _no_package,
    'more pixels than `max_pixels`': lambda folder: _rows(_saved(folder / 'a.tif', 'RGB'), max_pixels=3499),
    'truncated TIFF or PNG': _truncated,
}


def test_row(row, check):
    check(row, READ)
