"""Every layout of image and mask that turns up, and every way in which a file is none."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image, read_mask, voc_palette, write_mask

RED, WHITE = (255, 0, 0), (255, 255, 255)
QUADRANTS = np.array([[10, 80], [150, 220]], np.uint8).repeat(8, 0).repeat(8, 1)  # four gray levels, 16 x 16


def encode(image: Image.Image, kind: str = 'PNG', **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    return image.getpixel((x, y))


def png(header: bytes, body: bytes = b'') -> bytes:
    """A PNG of chunks written by hand."""
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(body)), (b'IEND', b'')]
    parts = [struct.pack('>I', len(d)) + n + d + struct.pack('>I', zlib.crc32(n + d)) for n, d in chunks]
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def palette_image(transparent: int | None = None) -> bytes:
    image = Image.new('P', (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    return encode(image, **({} if transparent is None else {'transparency': transparent}))


# What each orientation tag must make of QUADRANTS: top left, top right, bottom left, bottom right.
ORIENTATIONS = {
    1: (10, 80, 150, 220),
    2: (80, 10, 220, 150),
    3: (220, 150, 80, 10),
    4: (150, 220, 10, 80),
    5: (10, 150, 80, 220),
    6: (150, 10, 220, 80),
    7: (220, 80, 150, 10),
    8: (80, 220, 10, 150),
}


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize(('tag', 'corners'), ORIENTATIONS.items())
def test_exif_orientation_is_applied_once(kind, tag, corners):
    exif = Image.Exif()
    exif[0x0112] = tag
    data = encode(Image.fromarray(QUADRANTS).convert('RGB'), kind, exif=exif, **quality(kind))
    once = read_image(data)
    for shown in (once, read_image(once)):
        seen = [pixel(shown, x, y)[0] for y in (2, 13) for x in (2, 13)]
        assert seen == pytest.approx(corners, abs=4)


def quality(kind: str) -> dict:
    return {'JPEG': {'quality': 95}, 'WEBP': {'lossless': True}}.get(kind, {})


def test_orientation_swaps_the_sides():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(encode(Image.new('RGB', (30, 10)), 'JPEG', exif=exif)).size == (10, 30)


def test_broken_exif_is_no_reason_to_refuse():
    assert read_image(encode(Image.new('RGB', (4, 4), RED), 'PNG', exif=b'Exif\0\0MM\0*\xff\xff')).size == (
        4,
        4,
    )


MODES = {
    'RGB': (encode(Image.new('RGB', (2, 1), RED)), RED),
    'L': (encode(Image.new('L', (2, 1), 77)), (77, 77, 77)),
    '1-bit': (encode(Image.new('1', (2, 1), 1)), WHITE),
    'palette': (palette_image(), RED),
    'palette, transparent': (palette_image(transparent=0), WHITE),
    'palette, other transparent': (palette_image(transparent=1), RED),
    'RGBA, opaque': (encode(Image.new('RGBA', (2, 1), (*RED, 255))), RED),
    'RGBA, clear': (encode(Image.new('RGBA', (2, 1), (*RED, 0))), WHITE),
    'RGBA, half': (encode(Image.new('RGBA', (2, 1), (255, 0, 0, 51))), (255, 204, 204)),
    'LA, clear': (encode(Image.new('LA', (2, 1), (0, 0))), WHITE),
    'LA, opaque': (encode(Image.new('LA', (2, 1), (9, 255))), (9, 9, 9)),
    'RGB with a clear color': (encode(Image.new('RGB', (2, 1), RED), transparency=RED), WHITE),
    'CMYK TIFF': (encode(Image.new('CMYK', (2, 1), (0, 255, 255, 0)), 'TIFF'), RED),
    'YCbCr TIFF': (encode(Image.new('RGB', (2, 1), RED).convert('YCbCr'), 'TIFF'), (254, 0, 0)),
    '16-bit gray PNG': (encode(Image.fromarray(np.full((1, 2), 257 * 100, np.uint16))), (100, 100, 100)),
    '16-bit gray, brightest': (encode(Image.fromarray(np.full((1, 2), 65535, np.uint16))), WHITE),
    '16-bit gray TIFF': (encode(Image.fromarray(np.full((1, 2), 256, np.uint16)), 'TIFF'), (1, 1, 1)),
    '32-bit TIFF': (encode(Image.fromarray(np.full((1, 2), 257 * 3, np.int32)), 'TIFF'), (3, 3, 3)),
    'float TIFF to 1': (encode(Image.fromarray(np.full((1, 2), 0.2, np.float32)), 'TIFF'), (51, 51, 51)),
    'float TIFF to 255': (encode(Image.fromarray(np.full((1, 2), 99, np.float32)), 'TIFF'), (99, 99, 99)),
    'float TIFF to 65535': (encode(Image.fromarray(np.full((1, 2), 2570, np.float32)), 'TIFF'), (10, 10, 10)),
    'float TIFF with NaN': (encode(Image.fromarray(np.full((1, 2), np.nan, np.float32)), 'TIFF'), (0, 0, 0)),
}


@pytest.mark.parametrize(('data', 'expected'), MODES.values(), ids=MODES)
def test_every_mode_becomes_rgb(data, expected):
    image = read_image(data)
    assert (image.mode, image.size, pixel(image)) == ('RGB', (2, 1), expected)
    assert image.info == {}


def test_cmyk_jpeg_keeps_its_colors():
    red = Image.new('CMYK', (16, 16), (0, 255, 255, 0))
    assert pixel(read_image(encode(red, 'JPEG')), 8, 8) == pytest.approx(RED, abs=4)


def test_numbers_of_unknown_range_are_stretched_not_clipped():
    values = np.array([[-1000.0, 0.0, 1000.0]], np.float32)
    assert np.asarray(read_image(encode(Image.fromarray(values), 'TIFF')))[0, :, 0].tolist() == [0, 128, 255]


def test_nan_does_not_spoil_the_rest():
    values = np.array([[np.nan, 0.2, np.inf]], np.float32)
    assert np.asarray(read_image(encode(Image.fromarray(values), 'TIFF')))[0, :, 0].tolist() == [0, 51, 0]


def test_sixteen_bits_keep_their_order():
    values = np.linspace(0, 65535, 256).astype(np.uint16)[None]
    shown = np.asarray(read_image(encode(Image.fromarray(values))))[0, :, 0]
    assert shown.tolist() == list(range(256))


@pytest.mark.parametrize('kind', ['GIF', 'TIFF', 'WEBP', 'PNG'])
def test_first_frame_counts(kind):
    frames = [Image.new('RGB', (4, 4), color) for color in (RED, (0, 0, 255))]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **quality(kind))
    assert pixel(read_image(data)) == pytest.approx(RED, abs=2)


ARRAYS = {
    'gray': (np.full((2, 3), 7, np.uint8), (7, 7, 7)),
    'gray, one channel': (np.full((2, 3, 1), 7, np.uint8), (7, 7, 7)),
    'RGB': (np.full((2, 3, 3), RED, np.uint8), RED),
    'RGB, not contiguous': (np.full((3, 2, 3), RED, np.uint8).transpose(1, 0, 2)[:, ::-1], RED),
    'RGBA': (np.full((2, 3, 4), (*RED, 0), np.uint8), WHITE),
    'float': (np.full((2, 3, 3), 0.4), (102, 102, 102)),
    'sixteen bits': (np.full((2, 3, 3), 514, np.uint16), (2, 2, 2)),
    'bool': (np.ones((2, 3), bool), WHITE),
    'tensor': (torch.tensor(RED, dtype=torch.uint8)[:, None, None].expand(3, 2, 3), RED),
    'tensor of floats': (torch.full((3, 2, 3), 0.4, requires_grad=True), (102, 102, 102)),
    'bfloat16 tensor': (torch.ones(1, 2, 3, dtype=torch.bfloat16), WHITE),
}


@pytest.mark.parametrize(('array', 'expected'), ARRAYS.values(), ids=ARRAYS)
def test_arrays_and_tensors(array, expected):
    image = read_image(array)
    assert (image.mode, image.size, pixel(image)) == ('RGB', (3, 2), expected)


@pytest.mark.parametrize('kind', ['path', 'text', 'bytes', 'file', 'image'])
def test_every_kind_of_source(kind, tmp_path):
    path = tmp_path / 'ü 1.png'
    path.write_bytes(data := encode(Image.new('RGB', (3, 2), RED)))
    source = {
        'path': path,
        'text': str(path),
        'bytes': data,
        'file': io.BytesIO(data),
        'image': Image.open(path),
    }
    assert pixel(read_image(source[kind])) == RED


def test_the_callers_image_is_left_alone():
    image = Image.new('RGB', (2, 2), RED)
    read_image(image).putpixel((0, 0), WHITE)
    assert pixel(image) == RED


JPEG = encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), 'JPEG')
PNG = encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)))
BAD = {
    'empty': (b'', r'is empty \(0 bytes\)'),
    'web page': (b'\n<!DOCTYPE html><html>404</html>', 'web page'),
    'noise': (b'\x00\x01\x02' * 50, 'not an image in a supported format'),
    'text': (b'hello', 'not an image in a supported format'),
    'JPEG cut short': (JPEG[: len(JPEG) // 2], 'damaged or truncated'),
    'PNG cut short': (PNG[: len(PNG) // 2], 'damaged or truncated'),
    'JPEG header alone': (JPEG[:20], 'not an image|damaged'),
    'PNG with a wrong checksum': (PNG[:40] + b'\xff' + PNG[41:], 'damaged|not an image'),
    'bomb': (
        png(struct.pack('>IIBBBBB', 30_000, 30_000, 8, 2, 0, 0, 0)),
        '30000 x 30000 pixels, more than the limit of 178956970',
    ),
    'no pixels': (np.zeros((0, 5, 3), np.uint8), r'got \(0, 5, 3\)'),
    'channels first': (np.zeros((3, 5, 5), np.uint8), 'channels come last'),
    'batch': (np.zeros((1, 5, 5, 3), np.uint8), r'got \(1, 5, 5, 3\)'),
    'complex': (np.zeros((5, 5), complex), 'numbers, got dtype complex'),
    'tensor, channels last': (torch.zeros(5, 5, 3), r'must be \(1 | 3 | 4, H, W\)'),
    'number': (5, 'got int'),
    'web address': ('https://example.org/a.jpg', 'is a URL; download the image'),
    'does not exist': ('/nowhere/a.jpg', 'does not exist'),
    'folder': ('/', 'is a folder'),
    'null in the name': ('a\0b.jpg', 'cannot be read'),
    'mode without a way to RGB': (Image.new('La', (2, 2)), 'mode La'),
}


@pytest.mark.parametrize(('source', 'message'), BAD.values(), ids=BAD)
def test_refusals_are_one_clear_line(source, message):
    with pytest.raises(InputError, match=message) as caught:
        read_image(source)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('seed', range(3))
def test_damage_anywhere_is_an_input_error_or_harmless(seed):
    random = np.random.default_rng(seed)
    for data in (
        JPEG,
        PNG,
        encode(Image.open(io.BytesIO(PNG)), 'TIFF'),
        encode(Image.open(io.BytesIO(PNG)), 'GIF'),
    ):
        for _ in range(20):
            broken = bytearray(data)
            for at in random.integers(0, min(len(data), 600), 3):
                broken[at] = random.integers(256)
            with warnings.catch_warnings(), contextlib.suppress(InputError):
                warnings.simplefilter('ignore')
                assert read_image(bytes(broken)).mode == 'RGB'


@pytest.mark.parametrize('max_pixels', [11, 12])
def test_the_limit_is_the_callers(max_pixels):
    data = encode(Image.new('RGB', (4, 3)))
    if max_pixels < 12:
        with pytest.raises(InputError, match='more than the limit of 11'):
            read_image(data, max_pixels)
    else:
        assert read_image(data, max_pixels).size == (4, 3)


def test_pillows_own_limit_comes_back(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert read_image(encode(Image.new('RGB', (30, 10)))).size == (30, 10)
    with pytest.raises(InputError):
        read_image(b'')
    assert Image.MAX_IMAGE_PIXELS == 10


INDICES = np.array([[0, 1, 15], [255, 2, 1]], np.uint8)


def gray_png(bits: int, values: list[int]) -> bytes:
    """One row of a gray PNG of 1, 2 or 4 bits."""
    packed = 0
    for value in values:
        packed = packed << bits | value
    width = len(values)
    body = b'\0' + (packed << (-bits * width % 8)).to_bytes((bits * width + 7) // 8, 'big')
    return png(struct.pack('>IIBBBBB', width, 1, bits, 0, 0, 0, 0), body)


def indexed(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    return image


MASKS = {
    'palette': (encode(indexed(INDICES)), INDICES),
    'palette of 4 bits': (encode(indexed(INDICES % 16), bits=4), INDICES % 16),
    'gray': (encode(Image.fromarray(INDICES)), INDICES),
    'gray of 1 bit': (gray_png(1, [0, 1, 1]), [[0, 1, 1]]),
    'gray of 2 bits': (gray_png(2, [0, 1, 2, 3]), [[0, 1, 2, 3]]),
    'gray of 4 bits': (gray_png(4, [0, 1, 9, 15]), [[0, 1, 9, 15]]),
    'gray of 16 bits': (encode(Image.fromarray(INDICES.astype(np.uint16) * 100)), INDICES.astype(int) * 100),
    'gray TIFF of 32 bits': (
        encode(Image.fromarray(INDICES.astype(np.int32) - 1), 'TIFF'),
        INDICES.astype(int) - 1,
    ),
}


@pytest.mark.parametrize(('data', 'expected'), MASKS.values(), ids=MASKS)
def test_masks_are_read_as_stored_indices(data, expected):
    mask = read_mask(data)
    assert mask.dtype in (np.uint8, np.int32)
    np.testing.assert_array_equal(mask, expected)


BAD_MASKS = {
    'colors': (encode(Image.new('RGB', (2, 2), RED)), r'color image \(mode RGB, 1 colors\).*indices'),
    'RGBA': (encode(Image.new('RGBA', (2, 2))), 'color image'),
    'JPEG': (encode(Image.fromarray(INDICES), 'JPEG'), 'compression changes labels'),
    'empty': (b'', 'is empty'),
    'cut short': (encode(Image.fromarray(QUADRANTS))[:60], 'damaged|not an image'),
}


@pytest.mark.parametrize(('data', 'message'), BAD_MASKS.values(), ids=BAD_MASKS)
def test_what_is_no_mask_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        read_mask(data)


ROUND_TRIPS = {
    'all of 8 bits': (np.arange(256).reshape(16, 16), 'P'),
    'one pixel': (np.zeros((1, 1), np.int64), 'P'),
    'bool': (np.array([[True, False]]), 'P'),
    'not contiguous': (np.arange(12, dtype=np.uint8).reshape(3, 4).T, 'P'),
    'above 8 bits': (np.array([[0, 255, 256, 65535]]), 'I;16'),
}


@pytest.mark.parametrize(('mask', 'mode'), ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_masks_survive_writing(mask, mode, tmp_path):
    write_mask(tmp_path / 'mask.png', mask)
    assert Image.open(tmp_path / 'mask.png').mode == mode
    np.testing.assert_array_equal(read_mask(tmp_path / 'mask.png'), mask)


def test_a_palette_colors_its_first_indices(tmp_path):
    write_mask(tmp_path / 'mask.png', np.array([[0, 1]]), palette=np.array([[9, 8, 7]]))
    shown = np.asarray(Image.open(tmp_path / 'mask.png').convert('RGB'))
    assert shown.tolist() == [[[9, 8, 7], [128, 0, 0]]]


@pytest.mark.parametrize(
    ('name', 'mask', 'message'),
    [
        ('m.jpg', np.zeros((2, 2), int), 'must end in .png'),
        ('m.png', np.zeros((2, 2, 3), int), r'got shape \(2, 2, 3\)'),
        ('m.png', np.zeros((0, 2), int), r'got shape \(0, 2\)'),
        ('m.png', np.zeros((2, 2)), 'integers, got shape'),
        ('m.png', np.array([[-1, 3]]), 'got -1 to 3'),
        ('m.png', np.array([[70000]]), 'to 70000'),
    ],
    ids=['ending', 'colors', 'empty', 'float', 'negative', 'too large'],
)
def test_masks_that_png_cannot_hold(name, mask, message, tmp_path):
    with pytest.raises(InputError, match=message):
        write_mask(tmp_path / name, mask)
    assert not list(tmp_path.iterdir())


def test_voc_palette_is_vocs():
    palette = voc_palette()
    published = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {index: tuple(palette[index].tolist()) for index in published} == published
    assert len(np.unique(voc_palette(1000), axis=0)) == 1000
