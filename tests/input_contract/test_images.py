"""The tables below "Images" of docs/input_contract.md, and properties of image arrays of any values."""

from __future__ import annotations

import contextlib
import io
import os
import warnings

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import clipdense
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.tasks.options import SegmentationOptions
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image

SECTION = 'Images'

RGB = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
GRAY = RGB[..., 0]
SMALL_INTEGERS = (np.int8, np.int16, np.int32, np.int64, np.uint32, np.uint64)
SIXTEEN = (RGB.astype(np.uint16) * 257)[..., 0]


def _same(source, expected=RGB):
    assert np.array_equal(np.asarray(read_image(source)), expected)


def _each(read, *sources):
    """Read each source; the first refusal is the row's, but all others must be refused too."""
    for source in sources[1:]:
        with contextlib.suppress(InputError):
            read(source)
            pytest.fail(f'{source!r} was read')
    read(sources[0])


def _grays(*pairs):
    for source, level in pairs:
        found = np.asarray(read_image(source))
        assert np.array_equal(found, np.full_like(found, level)), (source, found)


def _clear(folder):
    clear = np.zeros((4, 5, 4), np.uint8)
    clear[..., 3] = 0
    _same(clear, np.full((4, 5, 3), 255))


def _file(folder, data, name='image.jpg'):
    path = folder / name
    path.write_bytes(data)
    return path


def _encoded(image, kind='PNG', **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _tiff(values, dtype=np.float32):
    return _encoded(Image.fromarray(np.asarray([values], dtype)), 'TIFF')


def _modes(folder):
    for mode in ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr', 'HSV', 'LAB'):
        image = read_image(Image.new('RGB', (3, 2), (255, 255, 255)).convert(mode if mode != 'PA' else 'P'))
        assert (image.mode, image.size) == ('RGB', (3, 2)), mode
        assert min(image.getpixel((1, 1))) >= 254, mode
    for mode in ('LA', 'RGBA', 'PA'):
        assert read_image(Image.new(mode, (2, 2))).getpixel((0, 0)) == (255, 255, 255), mode


FOREIGN = [
    b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n',
    b'%PDF-1.4\n1 0 obj',
    b'8BPS\0\1' + bytes(60),
    b'SIMPLE  =                    T' + b' ' * 2850,
    b'\x89HDF\r\n\x1a\n' + bytes(60),
    b'\0\0\1\0\1\0' + bytes(60),
    b'\0\0\0\x18ftypheic' + bytes(60),
    b'PK\3\4' + bytes(60),
]


def _fifo(folder):
    os.mkfifo(folder / 'image.png')
    read_image(folder / 'image.png')


def _broken_link(folder):
    (folder / 'image.png').symlink_to(folder / 'gone.png')
    read_image(folder / 'image.png')


def _large_file(folder):
    path = _file(folder, _encoded(Image.new('RGB', (4, 4))))
    os.truncate(path, 20 << 30)  # sparse
    read_image(path)


def _text_file(folder):
    with open(_file(folder, b'text')) as file:
        read_image(file)


def _clip():
    tower = {'width': 16, 'layers': 1, 'num_heads': 2, 'mlp_width': 16, 'embed_dim': 8}
    return build_clip(ClipSize(VitSize(image_size=16, patch_size=4, **tower), TextSize(**tower)))


def _classify(images, **settings):
    predictor = clipdense.Classifier.from_pretrained(_clip(), cache=False, device='cpu')
    return [index for index, _ in predictor.stream(images, ['cat', 'dog'], **settings)]


def _segment(options):
    options = SegmentationOptions(**options)
    predictor = clipdense.Segmenter.from_pretrained(_clip(), options=options, cache=False, device='cpu')
    predictor(RGB, ['cat', 'dog'])


def _many(folder):
    Image.fromarray(RGB).save(folder / 'a.png')
    paths = [str(folder / 'a.png')] * 2
    for images in (paths, iter(paths), np.array(paths), np.stack([RGB, RGB]), [RGB, paths[0]]):
        assert _classify(images) == [0, 1]


def _video(folder, keep=1.0):
    """A video of ten frames of noise, of which the first part is kept."""
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(folder / 'whole.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 10.0, (64, 48))
    for _ in range(10):
        writer.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    writer.release()
    data = (folder / 'whole.avi').read_bytes()
    (folder / 'a.avi').write_bytes(data[: int(keep * len(data))])
    return folder / 'a.avi'


def _folder_of_images(folder):
    for name in ('a', 'b'):
        Image.fromarray(RGB).save(folder / f'{name}.png')
    for source in (folder, str(folder), f'{folder}/*.png'):
        assert _classify(source) == [0, 1]


def _whole_video(folder):
    assert _classify(_video(folder)) == [*range(10)]


def _truncated_video(folder):
    assert 1 <= len(_classify(str(_video(folder, 0.5)))) < 8


def _no_video(folder):
    for name, content in (('a.mp4', b''), ('b.mov', b'<!doctype html>')):
        (folder / name).write_bytes(content)
    _each(_classify, folder / 'a.mp4', folder / 'b.mov')


class Capture:
    """In place of OpenCV's: two blue frames (BGR), or none, or a camera that is not there."""

    frames: int | None = 2

    def __init__(self, *target):
        self.left = self.frames

    def isOpened(self):
        return self.frames is not None

    def get(self, key):
        return 10.0

    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((4, 5, 3), (200, 0, 0), np.uint8)

    def release(self):
        pass


def _camera(folder):
    assert _live(2) == [0, 1]


def _live(frames):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cv2, 'VideoCapture', type('Fake', (Capture,), {'frames': frames}))
        return _classify(clipdense.LiveFrames(0))


def _call(folder):
    _each(lambda one: _classify([one]), _video(folder), folder, str(folder))


READ = {
    '`uint8` array (H, W, 3)': lambda folder: _same(RGB),
    'array (H, W) or (H, W, 1)': lambda folder: [
        _same(source, np.stack([GRAY] * 3, axis=-1)) for source in (GRAY, GRAY[..., None], GRAY[:, ::1])
    ],
    'array (H, W, 4)': _clear,
    'tensor (3, H, W), (1, H, W) or (H, W)': lambda folder: [
        _same(torch.from_numpy(RGB).permute(2, 0, 1)),
        _same(torch.from_numpy(GRAY.copy()), np.stack([GRAY] * 3, axis=-1)),
        _same(torch.from_numpy(GRAY.copy())[None], np.stack([GRAY] * 3, axis=-1)),
    ],
    'array with channels first (3, H, W)': lambda folder: read_image(np.zeros((3, 20, 30), np.uint8)),
    'tensor with channels last (H, W, 3)': lambda folder: read_image(torch.zeros(20, 30, 3)),
    'array of two images (2, H, W, 3)': lambda folder: _each(
        read_image, np.stack([RGB, RGB]), torch.zeros(2, 3, 8, 8), np.zeros((1, 8, 8, 3)), np.zeros(8)
    ),
    'array (3, W, 3)': lambda folder: _same(np.full((3, 9, 3), 7, np.uint8), np.full((3, 9, 3), 7)),
    'tensor (3, H, 3)': lambda folder: _same(
        torch.full((3, 9, 3), 7, dtype=torch.uint8), np.full((9, 3, 3), 7)
    ),
    'array without pixels (0, 5, 3)': lambda folder: read_image(np.zeros((0, 5, 3), np.uint8)),
    'sparse, quantized or meta tensor': lambda folder: _each(
        read_image,
        torch.ones(8, 8).to_sparse(),
        torch.ones(8, 8, device='meta'),
        torch.quantize_per_tensor(torch.ones(8, 8), 0.1, 0, torch.quint8),
    ),
    'masked array with masked values': lambda folder: read_image(np.ma.masked_less(RGB, 9)),
    'nested list of numbers': lambda folder: _each(read_image, RGB.tolist(), tuple(GRAY.tolist())),
    'other object that NumPy can read': lambda folder: _each(read_image, np.float64(3), np.uint8(3)),
    'bool': lambda folder: _grays((np.ones((2, 3), bool), 255), (torch.zeros(3, 4, 5, dtype=torch.bool), 0)),
    '`int8`, `int16`, `int32`, `int64`, `uint32`, `uint64`, 0 to 255': lambda folder: [
        [_same(RGB.astype(dtype)) for dtype in SMALL_INTEGERS],
        [_same(np.full((4, 5), 255, dtype), np.full((4, 5, 3), 255)) for dtype in SMALL_INTEGERS[1:]],
        [_same(torch.from_numpy(RGB).permute(2, 0, 1).to(dtype)) for dtype in (torch.int16, torch.long)],
        _same(np.array(RGB.tolist())),
    ],
    'the same with a value below 0 or above 255': lambda folder: _each(
        read_image,
        RGB.astype(np.int32) * 5,
        RGB.astype(np.int16) - 1,
        RGB.astype(np.int8) - 90,
        np.full((2, 2), 65535, np.uint32),
        np.full((2, 2), 2**63, np.uint64),
        torch.full((3, 4, 5), -1),
    ),
    '`uint16`, largest value at least 4096': lambda folder: [
        _same(SIXTEEN, np.stack([GRAY] * 3, axis=-1)),
        _same(torch.from_numpy(SIXTEEN), np.stack([GRAY] * 3, axis=-1)),
        _grays((np.zeros((2, 3), np.uint16), 0)),
    ],
    '`uint16`, largest value 256 to 4095': lambda folder: _grays((np.full((2, 3), 2570, np.uint16), 10)),
    '`uint16`, largest value 1 to 255': lambda folder: _each(
        read_image, RGB.astype(np.uint16), torch.full((3, 4, 5), 255, dtype=torch.uint16)
    ),
    'integers that are all 0 or 1': lambda folder: _grays(
        (np.ones((4, 5), np.uint8), 1), (torch.ones(3, 4, 5, dtype=torch.int64), 1)
    ),
    'floats of 0 to 1': lambda folder: (
        [_same((RGB / 255).astype(dtype)) for dtype in (np.float32, np.float64, np.longdouble)]
        + [_grays((torch.full((3, 4, 5), 0.2, dtype=torch.float16), 51), (np.zeros((2, 2)), 0))]
    ),
    'floats of 0 to 255, largest value above 16': lambda folder: (
        [_same(RGB.astype(dtype)) for dtype in (np.float16, np.float32, np.float64)]
        + [_grays((torch.full((3, 4, 5), 200.4), 200), (np.full((2, 2), 17.0), 17))]
    ),
    'floats that exceed their range by at most half an 8-bit step': lambda folder: _grays(
        (np.full((2, 2), 1 + 1e-6), 255),
        (np.full((2, 2), -1e-6), 0),
        (np.full((2, 2), 255.4), 255),
        (torch.full((3, 4, 5), 1.0019), 255),
    ),
    'floats of 0 to 255, largest value at most 1': lambda folder: _grays((np.full((2, 2), 1.0), 255)),
    'floats, largest value above 1 and at most 16': lambda folder: _each(
        read_image, np.full((2, 2), 1.2), np.full((2, 2), 16.0), torch.full((3, 4, 5), 2.6)
    ),
    'floats with negative values (normalized)': lambda folder: _each(
        read_image, torch.randn(3, 20, 20), np.linspace(-1, 1, 12).reshape(3, 4), np.full((2, 2), -3.0)
    ),
    'floats above 255': lambda folder: _each(
        read_image, np.full((2, 2), 65535.0), np.full((2, 2), 255.6), torch.full((3, 4, 5), 1e30)
    ),
    'NaN or infinite values': lambda folder: _each(
        read_image,
        np.full((2, 2), np.nan),
        np.where(GRAY == 3, np.inf, 0.5),
        torch.full((3, 4, 5), -torch.inf),
    ),
    'complex numbers, text, objects': lambda folder: _each(
        read_image,
        np.zeros((2, 2), complex),
        np.full((2, 2), 'a'),
        np.full((2, 2), None),
        np.zeros((2, 2), 'datetime64[s]'),
    ),
    'Pillow image of mode 1, L, LA, P, PA, RGB, RGBA, RGBX, CMYK, YCbCr, HSV, LAB': _modes,
    'Pillow image of mode La': lambda folder: read_image(Image.new('La', (2, 2))),
    '16-bit gray PNG or TIFF': lambda folder: [
        _same(_encoded(Image.fromarray(SIXTEEN), kind), np.stack([GRAY] * 3, axis=-1))
        for kind in ('PNG', 'TIFF')
    ],
    'the same, largest value below 4096': lambda folder: _grays(
        (_encoded(Image.fromarray(np.full((2, 2), 514, np.uint16))), 2),
        (_encoded(Image.fromarray(np.full((2, 2), 255, np.uint16)), 'TIFF'), 1),
        (Image.fromarray(np.full((2, 2), 200, np.int32)), 1),
    ),
    'float TIFF of 0 to 1 or 0 to 255': lambda folder: [
        _same(_tiff([0, 0.2, 1]), [[[0] * 3, [51] * 3, [255] * 3]]),
        _same(_tiff([0, 99, 255]), [[[0] * 3, [99] * 3, [255] * 3]]),
    ],
    'float TIFF, largest value above 1 and at most 16': lambda folder: _grays((_tiff([3, 3]), 3)),
    'float TIFF, largest value above 255': lambda folder: _grays((_tiff([2570, 2570]), 10)),
    'float TIFF with NaN': lambda folder: _grays((_tiff([np.nan, np.inf]), 0)),
    'TIFF of negative or very large numbers': lambda folder: [
        _same(_tiff([-5, 5]), [[[0] * 3, [255] * 3]]),
        _same(_tiff([0, 70000], np.int32), [[[0] * 3, [255] * 3]]),
    ],
    'EPS, PDF, PSD, FITS, HDF5, ICO, HEIC or zip file named `.jpg`': lambda folder: _each(
        read_image, *(_file(folder, data, f'{number}.jpg') for number, data in enumerate(FOREIGN))
    ),
    'web page or SVG': lambda folder: _each(
        read_image,
        _file(folder, b'\n<!DOCTYPE html><html>404'),
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    ),
    'empty file': lambda folder: _each(read_image, _file(folder, b''), b'', io.BytesIO()),
    'truncated file': lambda folder: _each(
        read_image,
        *(_encoded(Image.effect_noise((64, 64), 80), kind)[:1500] for kind in ('PNG', 'JPEG', 'TIFF', 'PPM')),
    ),
    'folder': lambda folder: read_image(folder),
    'FIFO': _fifo,
    'device such as `/dev/zero`': lambda folder: _each(read_image, '/dev/zero', '/dev/null', '/dev/tty'),
    'link to a missing file': _broken_link,
    'file that does not exist': lambda folder: read_image(folder / 'gone.png'),
    'URL': lambda folder: read_image('https://example.org/a.jpg'),
    'more than 178,956,970 pixels': lambda folder: _each(
        read_image,
        _encoded(Image.new('1', (13_400, 13_400))),
        np.broadcast_to(np.uint8(0), (13_400, 13_400, 3)),
        torch.zeros(1, 1, 1, dtype=torch.uint8).expand(3, 13_400, 13_400),
    ),
    'more bytes than 8 for each of these pixels, and 64 MiB': _large_file,
    'text file object': _text_file,
    'list, iterator, array of paths, array (N, H, W, 3)': _many,
    'a folder or glob pattern for `stream`': _folder_of_images,
    'a video file for `stream`': _whole_video,
    'a truncated video': _truncated_video,
    'a camera or stream, `LiveFrames(0)`': _camera,
    'a camera or stream that cannot be opened': lambda folder: _live(None),
    'a camera or stream without a frame': lambda folder: _live(0),
    'a file or another scheme for `LiveFrames`': lambda folder: _each(
        clipdense.LiveFrames, 'a.mp4', 'file:///a', None, -1
    ),
    'half an address for `LiveFrames`': lambda folder: _each(
        clipdense.LiveFrames, 'rtsp://', 'rtsp://host:port/', 'http:///a'
    ),
    'a damaged or empty video': _no_video,
    'a video or folder for a call': _call,
    'the URL of a video': lambda folder: _classify('https://example.org/a.mp4'),
    'one array, tensor, Pillow image, file or `bytes` for `stream`': lambda folder: _each(
        _classify, RGB, GRAY, torch.zeros(3, 4, 5), Image.fromarray(RGB), io.BytesIO(), b'89', None
    ),
    "`batch_size` or `max_pixels` of 0, `'2'`, 2.0, `True`": lambda folder: _each(
        lambda settings: _classify([RGB], **settings),
        *({name: value} for name in ('batch_size', 'max_pixels') for value in (0, '2', 2.0, True)),
    ),
    '`short_side` or `scales` that enlarge beyond 178,956,970 pixels': lambda folder: _each(
        _segment, {'short_side': 10**8}, {'scales': (1e9,)}, {'scales': (1.0, 1e300)}
    ),
}


def test_row(row, check):
    check(row, READ)


NUMBERS = st.one_of(
    arrays.integer_dtypes(endianness='='),
    arrays.unsigned_integer_dtypes(endianness='='),
    arrays.floating_dtypes(endianness='='),
    arrays.boolean_dtypes(),
)
SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3, 4]))


@settings(deadline=None, max_examples=150)
@given(NUMBERS.flatmap(lambda dtype: arrays.arrays(dtype, SHAPES)))
def test_any_array_is_an_image_of_its_size_or_refused(array):
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter('ignore')
        image = read_image(array)
        assert (image.mode, image.size) == ('RGB', (array.shape[1], array.shape[0]))


@settings(deadline=None, max_examples=100)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3))), st.data())
def test_every_dtype_shows_the_same_image_or_is_refused(array, data):
    """What 8 bits show, the same values in another dtype show too, unless their range is refused."""
    dtype = data.draw(st.sampled_from(['int16', 'int32', 'int64', 'uint16', 'uint32', 'float32', 'float64']))
    unit = data.draw(st.booleans()) and dtype.startswith('float')
    given_values = (array / 255).astype(dtype) if unit else array.astype(dtype)
    expected = array if array.max() > 1 or not dtype.startswith('float') else array * np.uint8(255)
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter('ignore')
        found = np.asarray(read_image(given_values))
        assert np.array_equal(found, array if unit else expected)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=300), st.sampled_from(['', 'PNG', 'GIF', 'TIFF', 'BMP', 'PPM', 'TGA', 'JPEG']))
def test_any_bytes_are_an_image_or_refused(junk, kind):
    start = _encoded(Image.effect_noise((9, 9), 50), kind)[: 8 + len(junk)] if kind else b''
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter('ignore')
        assert read_image(start + junk).mode == 'RGB'


def test_large_transparent_images_are_composed_like_small_ones():
    tile = Image.effect_noise((50, 60), 90).convert('RGBA')
    tile.putalpha(Image.linear_gradient('L').resize(tile.size))
    large = Image.new('RGBA', (2500, 2400))
    for left in range(0, 2500, 50):
        for top in range(0, 2400, 60):
            large.paste(tile, (left, top))
    expected = np.tile(np.asarray(read_image(tile)), (40, 50, 1))
    assert np.array_equal(np.asarray(read_image(large)), expected)
