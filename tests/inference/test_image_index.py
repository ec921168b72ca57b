"""Search over a folder: exact ranking, and updates that embed only what is new."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

import clipdense
from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.inference.image_index import ImageIndex, default_file
from clipdense.utils.errors import InputError

SIZE = ClipSize(
    VitSize(image_size=32, patch_size=8, width=32, layers=2, num_heads=2, mlp_width=64, embed_dim=16),
    TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16),
)


def make(seed: int = 0):
    torch.manual_seed(seed)
    return build_clip(SIZE)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of 40 images in two subfolders."""
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path / 'cache'))
    rng = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / 'photos' / f'{number % 2}' / f'{number:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 40, 3), np.uint8)).save(path)
    return tmp_path / 'photos'


def indexed(folder, clip=None) -> ImageIndex:
    index = ImageIndex(clip or make(), folder, 'fp32')
    index.update()
    return index


def test_ranking_is_that_of_all_cosines(photos):
    clip = make()
    index = indexed(photos, clip)
    with torch.no_grad():
        text = clip.encode_text(clip.tokenizer(['a red star']), normalize=True)[0]
        images = torch.stack([clip.preprocess(Image.open(photos / one.path)) for one in index.images])
        scores = (clip.encode_image(images, normalize=True) @ text).numpy()
    found = index.search('a red star', top=40)
    order = np.argsort(-scores, kind='stable')
    assert [match.path for match in found] == [photos / index.images[row].path for row in order]
    assert_allclose([match.score for match in found], scores[order], atol=1e-5)
    assert index.search('a red star', top=3) == found[:3]
    assert len(index.search('a red star', top=1000)) == 40


def test_an_image_finds_itself(photos):
    path = photos / '1' / '07.png'
    assert indexed(photos).search(path, top=1)[0] == (path, pytest.approx(1, abs=1e-5))


def test_equal_images_are_in_the_order_of_their_paths(photos):
    for name in ('c.png', 'a.png', 'b.png'):
        shutil.copy(photos / '0' / '00.png', photos / name)
    found = indexed(photos).search(photos / '0' / '00.png', top=4)
    assert [match.path.name for match in found] == ['00.png', 'a.png', 'b.png', 'c.png']


def test_an_update_embeds_only_what_is_new(photos, tmp_path):
    indexed(photos).save(tmp_path / 'index.safetensors')
    Image.new('RGB', (30, 30), 'red').save(photos / 'new.png')  # added
    Image.new('RGB', (30, 30), 'blue').save(photos / '0' / '00.png')  # changed
    (photos / '1' / '01.png').rename(photos / 'elsewhere.png')  # moved
    (photos / '1' / '03.png').unlink()  # deleted
    shutil.copy(photos / '0' / '02.png', photos / 'copy.png')  # copied
    os.utime(photos / '0' / '04.png', ns=(1, 1))  # touched, and equal
    index = ImageIndex(make(), photos, 'fp32').read(tmp_path / 'index.safetensors')
    changes = index.update()
    counts = {name: number for name, number in changes.to_dict().items() if name not in ('failed', 'seconds')}
    assert counts == {
        'added': 1, 'changed': 1, 'moved': 1, 'copied': 1, 'removed': 1, 'unchanged': 37, 'embedded': 2,
    }  # fmt: skip
    again = indexed(photos)
    assert index.images == again.images
    assert_allclose(index.embeddings, again.embeddings, atol=1e-6)
    assert index.update().embedded == 0


def test_an_unreadable_image_is_left_out_and_named(photos):
    (photos / 'broken.jpg').write_bytes(b'not an image')
    (photos / 'empty.png').touch()
    os.mkfifo(photos / 'pipe.png')
    failed = []
    index = ImageIndex(make(), photos, 'fp32')
    changes = index.update(lambda path, error: failed.append((path, str(error))))
    assert len(index) == changes.embedded == 40
    assert sorted(path.rpartition('/')[2] for path, _ in failed) == ['broken.jpg', 'empty.png', 'pipe.png']
    assert all(path in message for path, message in failed)
    assert set(changes.failed) == {path for path, _ in failed}


def test_an_interrupted_update_keeps_what_is_done(photos, monkeypatch):
    clip, calls = make(), []
    encode = clip.encode_image

    def interrupted(images, normalize=False):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(images, normalize)

    monkeypatch.setattr(clip, 'encode_image', interrupted)
    index = ImageIndex(clip, photos, 'fp32')
    with pytest.raises(KeyboardInterrupt):
        index.update()
    assert len(index) == calls[0]
    changes = index.update()
    assert (changes.unchanged, changes.embedded, len(index)) == (calls[0], 40 - calls[0], 40)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda file, photos: make(1), 'made with other weights'),
        (lambda file, photos: file.write_bytes(file.read_bytes()[:-1] + b'\1'), 'is damaged'),
        (lambda file, photos: save(make(), file), 'is not an image index'),
        (lambda file, photos: file.unlink(), 'does not exist'),
    ],
)
def test_a_wrong_file_is_refused(photos, tmp_path, change, message):
    file = tmp_path / 'index.safetensors'
    index = indexed(photos)
    index.embeddings[-1, -1] = 0.5
    index.save(file)
    clip = change(file, photos)
    with pytest.raises(InputError, match=message):
        ImageIndex(clip if isinstance(clip, torch.nn.Module) else make(), photos, 'fp32').read(file)


def test_the_index_of_another_folder_is_refused_but_a_moved_folder_is_not(photos, tmp_path):
    indexed(photos).save(tmp_path / 'index.safetensors')
    other = tmp_path / 'other'
    shutil.copytree(photos, other)
    with pytest.raises(InputError, match='belongs to'):
        ImageIndex(make(), other, 'fp32').read(tmp_path / 'index.safetensors')
    shutil.rmtree(photos)
    index = ImageIndex(make(), other, 'fp32').read(tmp_path / 'index.safetensors')
    assert index.update().embedded == 0
    assert index.search('a star', top=1)[0].path.parent.parent == other


def test_search_in_one_call_keeps_its_index(photos):
    clip = make()
    first = clipdense.search(photos, 'a star', clip, top=3)
    index = ImageIndex(clip, photos)
    file = default_file(index)
    assert file.is_file()
    assert index.read(file).search('a star', top=3) == first


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda folder: ImageIndex('embedded', folder), 'use clipdense.load'),
        (lambda folder: ImageIndex(make(), folder / 'none'), 'is not a folder'),
        (lambda folder: ImageIndex(make(), folder).search('a star'), 'has no images'),
        (lambda folder: indexed(folder).search('  '), 'is empty'),
        (lambda folder: indexed(folder).search('a star', top=0), 'top must be'),
        (lambda folder: indexed(folder).search('a star', top=2.5), 'top must be'),
        (lambda folder: indexed(folder).search(folder / 'no.png'), r'no\.png'),
        (lambda folder: ImageIndex(make(), folder.parent / 'bare').update(), 'no images in'),
    ],
)
def test_wrong_calls_are_refused(photos, call, message):
    (photos.parent / 'bare').mkdir()
    with pytest.raises(InputError, match=message):
        call(photos)
