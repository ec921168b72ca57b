"""Embeddings of the images of folders and shards: the same for every number of parts."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.data.image_text.shard_copies import damaged_shards
from clipdense.inference import image_embeddings
from clipdense.inference.image_embeddings import ImageEmbeddings, embed_images
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.utils.jobs import Part

SIZE = ClipSize(
    VitSize(image_size=32, patch_size=8, width=32, layers=2, num_heads=2, mlp_width=64, embed_dim=16),
    TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16),
)
COUNT = 17


def make(seed: int = 0):
    torch.manual_seed(seed)
    return build_clip(SIZE)


def encoded(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (24, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    return file.getvalue()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(image_embeddings, 'BLOCK', 5)
    folder = tmp_path / 'photos'
    (folder / 'sub').mkdir(parents=True)
    for number in range(COUNT):
        (folder / ('sub' if number % 2 else '') / f'{number:02}.png').write_bytes(encoded(number))
    return folder


@pytest.fixture
def shards(tmp_path):
    """Four shards, without captions."""
    (tmp_path / 'shards').mkdir()
    for shard in range(4):
        with tarfile.open(tmp_path / 'shards' / f'{shard}.tar', 'w') as tar:
            for number in range(5 * shard, min(5 * shard + 5, COUNT)):
                info = tarfile.TarInfo(f'{number:03}.png')
                info.size = len(encoded(number))
                tar.addfile(info, io.BytesIO(encoded(number)))
    return tmp_path / 'shards'


def embed(source, out, text=None, clip=None, **settings):
    return embed_images(clip or make(), source, out, Part.parse(text), 'fp32', **settings)


@pytest.mark.parametrize('source', ['photos', 'shards'])
def test_every_image_has_its_embedding(source, request, tmp_path):
    clip = make()
    assert embed(request.getfixturevalue(source), tmp_path / 'out', clip=clip) == (COUNT, 0)
    names, rows = ImageEmbeddings.load(tmp_path / 'out')
    assert len(names) == len(set(names)) == COUNT
    for name, row in zip(names, rows, strict=True):
        number = int(name.rpartition('/')[2].partition('.')[0])
        with torch.no_grad():
            pixels = clip.preprocess(Image.open(io.BytesIO(encoded(number))))
            expected = clip.encode_image(pixels[None], normalize=True)[0].numpy()
        assert np.abs(expected - row).max() < 1e-3


@pytest.mark.parametrize('source', ['photos', 'shards'])
def test_parts_write_the_same_bytes(source, request, tmp_path):
    folder = request.getfixturevalue(source)
    embed(folder, tmp_path / 'whole')
    for text in ('3/3', '1/3'):
        embed(folder, tmp_path / 'parts', text)
    with pytest.raises(InputError, match=r'run part 2/3 of `clipdense embed images` to the end'):
        ImageEmbeddings.load(tmp_path / 'parts')
    embed(folder, tmp_path / 'parts', '2/3')
    files = sorted((tmp_path / 'whole').glob('*.safetensors'))
    assert len(files) == 4
    for file in files:
        assert (tmp_path / 'parts' / file.name).read_bytes() == file.read_bytes()


def test_an_unreadable_image_of_a_shard_is_named(shards, tmp_path):
    with tarfile.open(shards / '9.tar', 'w') as tar:
        info = tarfile.TarInfo('broken.png')
        info.size = 4
        tar.addfile(info, io.BytesIO(b'text'))
    named = []
    found = embed(shards, tmp_path / 'out', on_error=lambda name, error: named.append(str(error)))
    assert found == (COUNT, 1)
    assert named[0].startswith('9.tar/broken: the image is ')


def test_a_damaged_shard_ends_where_it_is_damaged(shards, tmp_path):
    (shards / '1.tar').write_bytes((shards / '1.tar').read_bytes()[:2000])
    assert COUNT - 5 <= embed(shards, tmp_path / 'out').embedded < COUNT
    (told,) = damaged_shards(tmp_path / 'out')
    assert told.startswith(f'{shards}/1.tar: damaged at byte ')


def test_finished_files_are_kept_and_others_refused(photos, tmp_path):
    embed(photos, tmp_path / 'out', '1/2')
    assert embed(photos, tmp_path / 'out', '1/2').embedded == 0
    for change, message in (
        ({'text': '1/3'}, 'was started as 2 parts, not 3'),
        ({'text': None}, 'was started as 2 parts, not 1'),
        ({'text': '2/2', 'clip': make(1)}, 'another model'),
    ):
        with pytest.raises(InputError, match=message):
            embed(photos, tmp_path / 'out', **change)
    (photos / 'new.png').write_bytes(encoded(0))
    with pytest.raises(InputError, match=r'another number of images .17, now 18.'):
        embed(photos, tmp_path / 'out', '2/2')
    with pytest.raises(InputError, match='4 files cannot be divided into 9 parts'):
        embed(photos, tmp_path / 'new', '1/9')


def test_what_cannot_be_read_is_named(photos, tmp_path):
    (photos / '00.png').write_bytes(b'text')
    named = []
    found = embed(photos, tmp_path / 'out', on_error=lambda name, error: named.append((name, str(error))))
    assert found == (COUNT - 1, 1)
    assert named[0][0] == '00.png'


@pytest.mark.parametrize(
    ('content', 'error', 'message'),
    [
        (None, InputError, 'has no image embeddings: write them with'),
        (b'text', InputError, 'a.safetensors'),
        ('cut', CheckpointError, 'a.safetensors'),
    ],
    ids=['empty folder', 'text', 'cut'],
)
def test_folders_of_something_else(photos, tmp_path, content, error, message):
    (tmp_path / 'out').mkdir()
    if content == 'cut':
        embed(photos, tmp_path / 'other')
        content = sorted((tmp_path / 'other').glob('*.safetensors'))[0].read_bytes()[:-40]
    if content is not None:
        (tmp_path / 'out' / 'a.safetensors').write_bytes(content)
    with pytest.raises(error, match=message):
        ImageEmbeddings.load(tmp_path / 'out')
