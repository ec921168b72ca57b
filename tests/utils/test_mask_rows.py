"""Masks that are written in rows equal those that are written at once."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipdense.utils import mask_rows as module
from clipdense.utils.errors import InputError, MissingPackage, WriteError
from clipdense.utils.image_io import read_mask, write_mask
from clipdense.utils.mask_rows import mask_rows
from clipdense.utils.palette import class_palette

RNG = np.random.default_rng(0)


def _write(path, mask, palette, step, **options):
    writer = mask_rows(path, mask.shape, palette, **options)
    for top in range(0, len(mask), step):
        writer.write(mask[top : top + step])
    writer.finish()
    writer.discard()  # has no effect on a finished file


@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize(('classes', 'palette'), [(9, True), (256, True), (700, False)])
@pytest.mark.parametrize('size', [(1, 1), (40, 33), (1100, 7)])
def test_equal_to_a_mask_that_is_written_at_once(suffix, classes, palette, size, tmp_path):
    if suffix == 'tif':
        pytest.importorskip('rasterio')
    colors = class_palette(classes) if palette else None
    mask = RNG.integers(0, classes, size)
    mask[0, 0] = classes - 1
    _write(tmp_path / f'rows.{suffix}', mask, colors, 13)
    assert np.array_equal(read_mask(tmp_path / f'rows.{suffix}'), mask)
    if palette and suffix == 'png':
        write_mask(tmp_path / 'whole.png', mask, colors)
        rows, whole = (Image.open(tmp_path / name) for name in ('rows.png', 'whole.png'))
        assert rows.mode == whole.mode == 'P'
        assert rows.getpalette() == whole.getpalette()
    assert [path.name for path in tmp_path.iterdir() if 'partial' in path.name] == []


def test_the_georeference_and_colors_of_a_tiff(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    place = rasterio.Affine(0.5, 0, 500, 0, -0.5, 900)
    colors = class_palette(3)
    georeference = {'crs': rasterio.crs.CRS.from_epsg(32632), 'transform': place}
    _write(tmp_path / 'a.tif', np.ones((20, 30), int), colors, 6, georeference=georeference, nodata=255)
    with rasterio.open(tmp_path / 'a.tif') as file:
        assert (file.crs.to_epsg(), file.transform, file.nodata) == (32632, place, 255)
        assert [file.colormap(1)[index][:3] for index in range(3)] == [tuple(one) for one in colors.tolist()]


def test_an_unfinished_mask_leaves_nothing_and_keeps_the_old_file(tmp_path):
    (tmp_path / 'a.png').write_text('old')
    writer = mask_rows(tmp_path / 'a.png', (4, 5), class_palette(2))
    writer.write(np.zeros((2, 5), int))
    writer.discard()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {'a.png': 'old'}


def test_files_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(InputError, match='masks of large images'):
        mask_rows(tmp_path / 'a.jpg', (4, 5), class_palette(2))
    (tmp_path / 'file').write_text('')
    with pytest.raises(WriteError):
        mask_rows(tmp_path / 'file' / 'a.png', (4, 5), class_palette(2))
    monkeypatch.setattr(module, 'has_rasterio', lambda: False)
    with pytest.raises(MissingPackage, match='remote'):
        mask_rows(tmp_path / 'a.tif', (4, 5), class_palette(2))


def test_rows_that_do_not_fit(tmp_path):
    writer = mask_rows(tmp_path / 'a.png', (4, 5), class_palette(2))
    for shape in ((1, 4), (5, 5)):
        with pytest.raises(ValueError, match='rows'):
            writer.write(np.zeros(shape, int))
    writer.discard()
