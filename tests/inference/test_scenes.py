"""Large images, from file to file in rows, against a call with the whole image."""

from __future__ import annotations

import resource
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import clipdense
from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.inference.scenes import segment_scene
from clipdense.tasks import scenes as tasks
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_mask
from clipdense.utils.rasters import RasterOptions

TINY = ClipSize(
    VitSize(image_size=32, patch_size=8, width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16),
    TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16),
)
NAMES = ['cat', 'dog', 'sky', 'road']
BLOCKS = np.random.default_rng(0).integers(0, 256, (30, 24, 3), dtype=np.uint8)
IMAGE = BLOCKS.repeat(8, axis=0).repeat(8, axis=1)[:230, :190]


def _clip():
    torch.manual_seed(0)
    return build_clip(TINY)


def _segmenter(method='maskclip', budget=64 * 190 * 30, **options):
    options = clipdense.SegmentationOptions(**{'window': 32, 'short_side': 0, **options})
    segmenter = clipdense.Segmenter.from_pretrained(_clip(), method, options=options, precision='fp32')
    segmenter.model.memory_budget = budget
    return segmenter


def _saved(folder, suffix):
    path = folder / f'image.{suffix}'
    Image.fromarray(IMAGE).save(path)
    return path


@pytest.mark.parametrize('suffix', ['png', 'tif', 'bmp'])
@pytest.mark.parametrize(
    ('method', 'options', 'names'),
    [
        ('maskclip', {}, NAMES),
        ('naclip', {'stride': 20, 'flip': True}, NAMES),
        ('sclip', {'scales': (0.5, 1.0)}, NAMES),
        ('maskclip', {'short_side': 100}, NAMES),
        ('maskclip', {'background_threshold': 0.3}, clipdense.Vocabulary(NAMES, background='sky')),
        ('maskclip', {}, clipdense.Vocabulary(NAMES[:3], background='sky', negatives=('road',))),
        ('maskclip', {}, clipdense.Vocabulary(NAMES, background='sky', thresholds={'cat': 0.3})),
        ('maskclip', {'refine': True}, NAMES),
    ],
)
def test_the_mask_is_that_of_a_call(suffix, method, options, names, tmp_path):
    segmenter, path = _segmenter(method, **options), _saved(tmp_path, suffix)
    whole = segmenter(str(path), names)
    found = segment_scene(segmenter, path, tmp_path / 'mask.png', names)
    mask = read_mask(tmp_path / 'mask.png')
    assert np.array_equal(mask, whole.mask)
    assert len(np.unique(mask)) > 1
    expected = whole.to_dict()
    got = found.to_dict()
    for key in ('height', 'width', 'classes'):
        assert got[key] == expected[key]
    for one, other in zip(got['segments'], expected['segments'], strict=True):
        assert one == pytest.approx(other, abs=2e-4)
    assert np.array_equal(found.preview.mask, whole.mask)
    assert np.array_equal(np.asarray(found.preview.image), IMAGE)


def test_a_call_with_many_windows_encodes_them_in_rows(monkeypatch):
    segmenter = _segmenter()
    whole = segmenter(IMAGE, NAMES)
    monkeypatch.setattr(tasks, 'MANY_WINDOWS', 3)
    monkeypatch.setattr(segmenter.model, 'encode_images', None)  # is not called
    rows = segmenter(IMAGE, NAMES)
    assert np.array_equal(rows.mask, whole.mask)
    assert np.array_equal(rows.scores, whole.scores)


def test_a_geotiff_keeps_its_place_and_its_pixels_without_data(tmp_path):
    rasterio = pytest.importorskip('rasterio')
    place = rasterio.Affine(10, 0, 500, 0, -10, 900)
    values = np.zeros((5, 230, 190), np.uint16)
    values[[3, 2, 1]] = IMAGE.transpose(2, 0, 1).astype(np.uint16) + 1
    values[:, :40, :50] = 0
    profile = {'crs': 'EPSG:32632', 'transform': place, 'nodata': 0}
    with rasterio.open(
        tmp_path / 'a.tif', 'w', driver='GTiff', height=230, width=190, count=5, dtype='uint16', **profile
    ) as file:
        file.write(values)
    segmenter = _segmenter()
    raster = RasterOptions(bands=(4, 3, 2), value_range=(1, 256))
    found = segment_scene(segmenter, tmp_path / 'a.tif', tmp_path / 'mask.tif', NAMES, raster)
    image = IMAGE.copy()
    image[:40, :50] = 0
    expected = segmenter(image, NAMES).mask.copy()
    expected[:40, :50] = 255
    with rasterio.open(tmp_path / 'mask.tif') as file:
        assert np.array_equal(file.read(1), expected)
        assert (file.crs.to_epsg(), file.transform, file.nodata) == (32632, place, 255)
    assert found.to_dict()['without_data'] == pytest.approx(2000 / (230 * 190), abs=1e-6)
    assert sum(found.class_fractions().values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ('options', 'names', 'message'),
    [
        ({}, None, 'no class names'),
        ({'area_threshold': 0.1}, clipdense.Vocabulary(NAMES, background='sky'), 'needs the whole image'),
        ({'window': 4}, NAMES, 'smaller than a patch'),
    ],
)
def test_what_cannot_be_done_leaves_no_file(options, names, message, tmp_path):
    path = _saved(tmp_path, 'png')
    with pytest.raises(InputError, match=message):
        segment_scene(_segmenter(**options), path, tmp_path / 'mask.png', names)
    assert [one.name for one in tmp_path.iterdir()] == ['image.png']


def test_the_image_is_not_replaced_and_a_strong_reduction_is_said(tmp_path):
    path = _saved(tmp_path, 'png')
    with pytest.raises(InputError, match='is the image itself'):
        segment_scene(_segmenter(), path, path, NAMES)
    with pytest.warns(UserWarning, match='is reduced 5.9 times'):
        segment_scene(_segmenter(short_side=32), path, tmp_path / 'mask.png', NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        segment_scene(_segmenter(), path, tmp_path / 'mask.png', NAMES)


@pytest.mark.slow
def test_memory_does_not_grow_up_to_20000_squares(tmp_path):
    """Peak memory of the command, in MiB, from 4,000 to 20,000 squares; takes 20 minutes or more."""
    rasterio = pytest.importorskip('rasterio')
    save(_clip(), tmp_path / 'tiny.safetensors')
    peaks = []
    profile = {'driver': 'GTiff', 'count': 3, 'dtype': 'uint8', 'photometric': 'rgb', 'compress': 'deflate'}
    for side in (4000, 20000):
        with rasterio.open(tmp_path / 'a.tif', 'w', height=side, width=side, tiled=True, **profile) as file:
            for top in range(0, side, 256):
                bottom = min(top + 256, side)
                rows = np.random.default_rng(top).integers(0, 256, (3, bottom - top, 1), dtype=np.uint8)
                file.write(rows.repeat(side, axis=2), window=((top, bottom), (0, side)))
        command = f'{sys.executable} -m clipdense segment a.tif -c cat,dog --weights tiny.safetensors --tiled'
        settings = f'--window 128 --short-side 0 --max-pixels {side**2} --overwrite'
        subprocess.run([*command.split(), *settings.split()], cwd=tmp_path, check=True)
        peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
        with rasterio.open(tmp_path / 'segmented/a_mask.tif') as mask:
            assert mask.shape == (side, side)
    assert peaks[1] < peaks[0] + 500
