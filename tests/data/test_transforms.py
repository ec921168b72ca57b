"""Crops and batches."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from clipdense.clip.preprocess import Preprocess
from clipdense.data import transforms
from clipdense.data.batches import collate, sample_rng, to_tensor
from clipdense.data.transforms import CenterCrop, SquareCrop, TrainCrop
from clipdense.registry import TRANSFORMS
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image


def make_image(width: int, height: int) -> Image.Image:
    """A smooth image: resizers may differ, but not by much."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ('other', 'same'),
    [
        ((0, 0, 5), True),
        ((1, 0, 5), False),
        ((0, 1, 5), False),
        ((0, 0, 6), False),
        ((0, 0, 'shard/5'), False),
    ],
)
def test_generators_differ_by_seed_epoch_and_sample(other, same):
    assert (sample_rng(0, 0, 5).random() == sample_rng(*other).random()) is same


def test_generator_is_the_same_on_every_machine():
    # SHA-512 and the Mersenne Twister, both fixed by their definitions: written down once, must never change.
    assert sample_rng(0, 3, 'a/7').getrandbits(32) == random.Random('0/3/a/7').getrandbits(32) == 183115601


class TestTrainCrop:
    @pytest.mark.parametrize(('height', 'width'), [(375, 500), (640, 480), (100, 100), (1, 1), (7, 3)])
    def test_window_keeps_to_area_and_shape(self, height, width):
        crop = TrainCrop(8, scale=(0.5, 0.9))
        for sample in range(50):
            top, left, h, w = crop.window(height, width, sample_rng(0, 0, sample))
            assert 0 <= top <= height - h
            assert 0 <= left <= width - w
            if min(height, width) >= 100:
                assert 0.49 < h * w / (height * width) < 0.91
                assert 0.74 < w / h < 1.35

    @pytest.mark.parametrize(
        ('height', 'width', 'expected'),
        [
            (
                10,
                1000,
                (0, 493, 10, 13),
            ),  # as wide as 4/3 allows: round(10 * 4 / 3) = 13, (1000 - 13) // 2 = 493
            (
                1000,
                9,
                (494, 0, 12, 9),
            ),  # as high as 3/4 allows: round(9 / (3 / 4)) = 12, (1000 - 12) // 2 = 494
        ],
        ids=['wide', 'high'],
    )
    def test_without_a_fitting_window_takes_the_largest_central_one(self, height, width, expected):
        crop = TrainCrop(8)
        assert crop.window(height, width, random.Random(0)) == expected
        official = v2.RandomResizedCrop(8, (0.9, 1.0)).make_params([torch.zeros(3, height, width)])
        assert [official[key] for key in ('top', 'left', 'height', 'width')] == list(expected)

    @pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
    @pytest.mark.parametrize(('width', 'height'), [(90, 70), (20, 31)])
    def test_pixels_are_those_of_torchvision(self, width, height, interpolation):
        image, crop = make_image(width, height), TrainCrop(32, interpolation=interpolation)
        window = crop.window(height, width, random.Random(3))
        mode = InterpolationMode(interpolation)
        found = crop(image, random.Random(3))
        assert torch.equal(found, F.resized_crop(F.pil_to_tensor(image), *window, [32, 32], mode))
        by_pillow = F.pil_to_tensor(F.resized_crop(image, *window, [32, 32], mode))
        assert (found.int() - by_pillow.int()).abs().max() <= 1

    def test_windows_spread_as_those_of_torchvision(self):
        # Mean and deviation of each of top, left, height, width, over 3000 windows.
        ours = np.array([TrainCrop(8, (0.5, 1)).window(400, 600, sample_rng(0, 0, i)) for i in range(3000)])
        crop, shape = v2.RandomResizedCrop(8, (0.5, 1)), [torch.zeros(3, 400, 600)]
        drawn = [crop.make_params(shape) for _ in range(3000)]
        official = np.array([[p['top'], p['left'], p['height'], p['width']] for p in drawn])
        assert np.allclose(ours.mean(0), official.mean(0), atol=4 * official.std(0).max() / 3000**0.5)
        assert np.allclose(ours.std(0), official.std(0), rtol=0.08)


class TestSquareCrop:
    def test_takes_a_whole_square_and_reaches_both_ends(self):
        columns = torch.arange(12, dtype=torch.uint8).expand(3, 4, 12)
        found = [SquareCrop(4)(columns, sample_rng(0, 0, i)) for i in range(100)]
        lefts = {int(crop[0, 0, 0]) for crop in found}
        assert lefts == set(range(9))
        assert all(torch.equal(crop[0, 0], torch.arange(4) + crop[0, 0, 0]) for crop in found)

    def test_scales_the_square(self):
        assert torch.equal(
            SquareCrop(2)(torch.full((3, 9, 5), 77), random.Random(0)), torch.full((3, 2, 2), 77)
        )


def jpeg(image: Image.Image, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, 'JPEG', **{'quality': 90, **settings})
    return file.getvalue()


def photograph(name: str, by: int = 1) -> Image.Image:
    """A photograph of scikit-image, its sides multiples of 16 and ``by`` / 2 times as large."""
    data = pytest.importorskip('skimage.data')
    image = Image.fromarray(getattr(data, name)())
    size = tuple(side * by // 2 // 16 * 16 for side in image.size)
    return image.resize(size, Image.Resampling.LANCZOS)


class Aligned(TrainCrop):
    """Windows with the same edges in an image of an eighth of the size."""

    def window(self, height, width, rng):
        return tuple(place // 8 * 8 for place in super().window(height, width, rng))


def contrast(image: torch.Tensor) -> float:
    """Mean difference of neighbors: less in a blurred image, more in one with aliasing."""
    return float((image[..., 1:] - image[..., :-1]).abs().mean())


@pytest.fixture(params=[False, True], ids=['Pillow', 'simplejpeg'])
def decoder(request, monkeypatch):
    """With and without the package simplejpeg."""
    if request.param:
        pytest.importorskip('simplejpeg')
    else:
        monkeypatch.setattr('clipdense.utils.jpeg._simplejpeg', lambda: None)


@pytest.mark.usefixtures('decoder')
class TestReducedDecoding:
    """JPEGs decoded at a fraction of their size, against all pixels and an antialiased resize."""

    @pytest.mark.parametrize('by', [2, 4, 8])
    @pytest.mark.parametrize('name', ['astronaut', 'chelsea', 'coffee', 'rocket'])
    def test_the_loss_is_about_a_gray_level(self, name, by):
        data = jpeg(photograph(name, by))
        size = min(photograph(name, 2).size) // 2 - 20
        for seed in range(3):
            full = Aligned(size)(read_image(data), random.Random(seed)).float()
            reduced = Aligned(size, reduce=1).read(data, random.Random(seed)).float()
            assert not torch.equal(full, reduced), 'it is reduced'
            assert (full - reduced).abs().mean() < 1.5
            assert 0.9 < contrast(reduced) / contrast(full) < 1.05

    @pytest.mark.parametrize('kind', [TrainCrop, SquareCrop])
    @pytest.mark.parametrize('size', [(480, 640), (481, 637), (333, 250), (2000, 1500)])
    def test_the_window_is_the_same_but_for_a_pixel(self, kind, size):
        """Of a ramp, whose values say which part of the image is shown."""
        across = np.linspace(0, 255, size[0])[None, :, None] * np.ones((size[1], 1, 3))
        data = jpeg(Image.fromarray(across.round().astype(np.uint8)), quality=100, subsampling=0)
        for seed in range(10):
            full = kind(64)(read_image(data), random.Random(seed)).float()
            reduced = kind(64, reduce=1).read(data, random.Random(seed)).float()
            assert (full - reduced).abs().max() <= 255 / 64 + 1

    @pytest.mark.parametrize(
        ('size', 'reduce', 'decoded'),
        [
            ((640, 480), 1, (320, 240)),
            ((640, 480), None, (640, 480)),
            ((640, 480), 1.2, (640, 480)),
            ((1000, 900), 1.0, (250, 225)),
            ((2000, 1900), 1.0, (250, 238)),
            ((400, 400), 1, (400, 400)),
        ],
    )
    def test_crops_are_never_enlarged(self, size, reduce, decoded, monkeypatch):
        seen, read = [], transforms.read_pixels
        monkeypatch.setattr(
            transforms, 'read_pixels', lambda *args, **how: seen.append(read(*args, **how)) or seen[-1]
        )
        crop = SquareCrop(224, reduce=reduce).read(jpeg(make_image(*size)), random.Random(0))
        assert ([pixels.shape[1::-1] for pixels in seen], crop.shape) == ([decoded], (3, 224, 224))

    @pytest.mark.parametrize('orientation', range(1, 9))
    def test_orientation(self, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = jpeg(make_image(90, 60), exif=exif)
        full = SquareCrop(16)(read_image(data), random.Random(3)).float()
        reduced = SquareCrop(16, reduce=1).read(data, random.Random(3)).float()
        assert (full - reduced).abs().mean() < 10, 'a wrong one differs by more than 40'

    @pytest.mark.parametrize('form', ['PNG', 'WEBP', 'GIF'])
    def test_other_formats_are_read_whole(self, form, tmp_path):
        make_image(90, 60).save(tmp_path / 'image', form, **({'lossless': True} if form == 'WEBP' else {}))
        found = TrainCrop(16, reduce=1, flip=0.5).read(tmp_path / 'image', random.Random(3))
        assert torch.equal(found, TrainCrop(16, flip=0.5)(read_image(tmp_path / 'image'), random.Random(3)))

    @pytest.mark.parametrize('mode', ['L', 'CMYK'])
    def test_gray_and_cmyk(self, mode):
        data = jpeg(make_image(90, 60).convert(mode))
        full = SquareCrop(16)(read_image(data), random.Random(0)).float()
        assert (SquareCrop(16, reduce=1).read(data, random.Random(0)).float() - full).abs().mean() < 4

    @pytest.mark.parametrize('data', [b'text', jpeg(make_image(90, 60))[:-200]], ids=['text', 'truncated'])
    def test_damage(self, data):
        with pytest.raises(InputError):
            TrainCrop(16, reduce=1).read(data, random.Random(0))

    @pytest.mark.parametrize('reduce', [0.5, 0, -1, float('nan'), True])
    def test_refusals(self, reduce):
        for kind in (TrainCrop, SquareCrop):
            with pytest.raises(InputError, match='reduce must be None or at least 1'):
                kind(16, reduce=reduce)


class TestCenterCrop:
    @pytest.mark.parametrize(('width', 'height'), [(64, 48), (33, 71), (32, 32), (256, 32), (5, 9)])
    @pytest.mark.parametrize('resize', ['shortest', 'squash'])
    def test_equals_the_preprocessing_of_the_weights(self, width, height, resize):
        preprocess = Preprocess(32, resize=resize)
        found = CenterCrop.of(preprocess)(make_image(width, height))
        assert torch.equal(preprocess.normalize(found), preprocess(make_image(width, height)))

    @pytest.mark.parametrize('resize', ['shortest', 'squash'])
    def test_tensors_are_cropped_alike(self, resize):
        image, crop = make_image(70, 50), CenterCrop(32, resize=resize)
        difference = crop(to_tensor(image)).int() - crop(image).int()
        assert difference.abs().max() <= 1

    @pytest.mark.parametrize('size', [(1, 5000), (5000, 1), (1, 1)])
    @pytest.mark.parametrize('as_tensor', [False, True])
    def test_extreme_shapes_stay_small(self, size, as_tensor, monkeypatch):
        # Scaled whole, 1 x 5000 would have 224 * 1,120,000 pixels.
        scaled, place = [], F if as_tensor else Image.Image
        resize = place.resize
        monkeypatch.setattr(
            place, 'resize', lambda image, *how: scaled.append(resize(image, *how)) or scaled[-1]
        )
        image = Image.new('RGB', size, (9, 8, 7))
        found = CenterCrop(224)(to_tensor(image) if as_tensor else image)
        assert (found == torch.tensor([9, 8, 7]).view(3, 1, 1)).all()
        assert found.shape == (3, 224, 224)
        assert max(F.get_size(scaled[0])) <= 8 * 224


@pytest.mark.parametrize('size', [(1, 1), (1, 500), (500, 1), (3, 2), (40, 30)])
@pytest.mark.parametrize('transform', ['TrainCrop', 'SquareCrop', 'CenterCrop'])
@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_every_crop_gives_a_contiguous_square(transform, size, mode):
    crop = TRANSFORMS.build({'type': transform, 'size': 16})
    image = Image.new(mode, size, 'white')
    first, again = crop(image, random.Random(1)), crop(image, random.Random(1))
    assert (first.shape, first.dtype, first.is_contiguous()) == ((3, 16, 16), torch.uint8, True)
    assert torch.equal(first, again)
    assert (first == 255).all()


def test_to_tensor_keeps_pixels_and_copies():
    image = make_image(5, 3)
    pixels = to_tensor(image)
    assert torch.equal(pixels, F.pil_to_tensor(image))
    pixels.zero_()
    assert np.asarray(image).any()


def test_collate():
    same, other = torch.zeros(2, 3), torch.zeros(2, 4)
    items = [
        {'a': same, 'b': same, 'c': 3, 'd': 'x', 'e': 1.5, 'f': np.int32(4), 'g': True},
        {'a': same + 1, 'b': other, 'c': -1, 'd': 'y', 'e': 2.5, 'f': 5, 'g': False},
    ]
    batch = collate(items)
    assert torch.equal(batch['a'], torch.stack([same, same + 1]))
    assert [value.shape for value in batch['b']] == [(2, 3), (2, 4)]
    assert batch['c'].dtype == batch['f'].dtype == torch.int64
    assert batch['c'].tolist() == [3, -1]
    assert batch['f'].tolist() == [4, 5]
    assert (batch['d'], batch['e'], batch['g']) == (['x', 'y'], [1.5, 2.5], [True, False])
