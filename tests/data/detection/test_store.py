"""The store of region embeddings, through interruptions and strangers."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from clipdense.data.detection.store import Regions, RegionStore, StoreFacts, images_digest
from clipdense.utils.errors import InputError

IMAGES = [(4, 100, 80), (9, 50, 60), (7, 30, 30)]
FACTS = StoreFacts('teacher', 'detector', (1.0, 1.5), images_digest(IMAGES), regions=3, width=5)
IDS = [one[0] for one in IMAGES]


def some(count: int, seed: int = 0) -> Regions:
    rng = np.random.default_rng(seed)
    return Regions(rng.random((count, 4), np.float32), rng.random((count, 5)).astype(np.float16))


def filled(folder) -> RegionStore:
    store = RegionStore.create(folder, FACTS, IDS)
    store.write({4: some(2, 4), 9: some(0, 9), 7: some(3, 7)})
    return store


def test_what_is_written_is_read(tmp_path):
    filled(tmp_path / 'store')
    store = RegionStore(tmp_path / 'store')
    assert store.unfinished == []
    for image_id, count in ((4, 2), (9, 0), (7, 3)):
        found, expected = store[image_id], some(count, image_id)
        assert np.array_equal(found.boxes, expected.boxes)
        assert np.array_equal(found.embeddings, expected.embeddings)
    store.check_images(IMAGES)
    store.check_images(IMAGES[:2])


def test_more_regions_than_there_is_room_for_are_cut(tmp_path):
    store = RegionStore.create(tmp_path / 'store', FACTS, IDS)
    store.write({4: some(6)})
    assert len(store[4].boxes) == 3


def test_it_goes_on_where_it_was(tmp_path):
    store = RegionStore.create(tmp_path / 'store', FACTS, IDS)
    store.write({9: some(1)})
    del store
    again = RegionStore.create(tmp_path / 'store', FACTS, IDS)
    assert again.unfinished == [4, 7]
    assert len(again[9].boxes) == 1
    with pytest.raises(InputError, match='is incomplete; run'):
        again[4]
    with pytest.raises(InputError, match='is incomplete: 2 of 3 images are missing'):
        again.check_images(IMAGES)


def test_an_interruption_before_the_count_leaves_the_image_undone(tmp_path, monkeypatch):
    """As after a kill between the embeddings and their count."""
    store = RegionStore.create(tmp_path / 'store', FACTS, IDS)
    monkeypatch.setattr(store._embeddings, 'flush', lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.write({4: some(2)})
    assert RegionStore(tmp_path / 'store').unfinished == IDS


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'teacher': 'x'}, 'another teacher'),
        ({'proposals': 'x'}, 'proposals of another detector'),
        ({'crops': (1.0,)}, 'other crops'),
        ({'images': 'x'}, 'other images'),
        ({'regions': 4}, '3 regions per image'),
        ({'width': 6}, '5 values per region'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_a_store_of_something_else_is_refused(tmp_path, change, message):
    filled(tmp_path / 'store')
    with pytest.raises(InputError, match=message):
        RegionStore.create(tmp_path / 'store', replace(FACTS, **change), IDS)


@pytest.mark.parametrize(
    'images', [[(5, 100, 80)], [(4, 99, 80), *IMAGES[1:]]], ids=['strange id', 'another size']
)
def test_proposals_for_other_images_are_refused(tmp_path, images):
    with pytest.raises(InputError, match='belongs to other images'):
        filled(tmp_path / 'store').check_images(images)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda folder: cut(folder / 'embeddings.npy'), 'damaged or truncated'),
        (lambda folder: cut(folder / 'count.npy'), 'damaged or truncated'),
        (lambda folder: (folder / 'boxes.npy').unlink(), 'damaged or truncated'),
        (
            lambda folder: np.save(folder / 'boxes.npy', np.zeros((3, 2, 4), np.float32)),
            'does not match its store',
        ),
        (lambda folder: cut(folder / 'store.json'), 'is damaged'),
        (lambda folder: (folder / 'store.json').write_text(json.dumps({'format': 'x'})), 'is not a store'),
        (lambda folder: (folder / 'store.json').unlink(), 'does not contain region embeddings'),
    ],
    ids=['embeddings', 'count', 'boxes gone', 'boxes of another size', 'header', 'format', 'no header'],
)
def test_damage_is_named(tmp_path, damage, message):
    filled(tmp_path / 'store')
    damage(tmp_path / 'store')
    with pytest.raises(InputError, match=message):
        RegionStore(tmp_path / 'store')


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    """30 GB of 3 images: a mapped file would only find out when the process dies."""
    facts = replace(FACTS, regions=300, width=10**7)
    monkeypatch.setattr('shutil.disk_usage', lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(InputError, match=r'3 images with 300 regions need 18\.0 GB, 1\.0 GB are free'):
        RegionStore.create(tmp_path / 'store', facts, IDS)
    assert list((tmp_path / 'store').iterdir()) == []


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(InputError, match='does not contain region embeddings; choose a new folder'):
        RegionStore.create(tmp_path, FACTS, IDS)


def test_workers_open_it_for_themselves(tmp_path):
    """What is sent to them is a few names, not the numbers."""
    store = filled(tmp_path / 'store')
    sent = pickle.dumps(store)
    assert np.array_equal(pickle.loads(sent)[7].boxes, store[7].boxes)
    assert len(sent) < 2000


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_not_written(tmp_path, value):
    store, regions = RegionStore.create(tmp_path / 'store', FACTS, IDS), some(2)
    regions.embeddings[1, 2] = value
    with pytest.raises(InputError, match='image id 9 are NaN or infinite'):
        store.write({4: some(1), 9: regions})
    assert store.unfinished == IDS


@pytest.mark.parametrize(
    ('file', 'value', 'said'),
    [
        ('embeddings', np.nan, 'an embedding of image id 7 is NaN, infinite or zero'),
        ('embeddings', -np.inf, 'an embedding of image id 7 is NaN, infinite or zero'),
        ('embeddings', 0, 'an embedding of image id 7 is NaN, infinite or zero'),
        ('boxes', np.nan, 'regions of image id 7 are damaged'),
        ('count', 1000, 'regions of image id 7 are damaged'),
        ('count', -5, 'regions of image id 7 are damaged'),
    ],
)
def test_damaged_values_are_named_when_read(tmp_path, file, value, said):
    filled(tmp_path / 'store')
    values = np.load(tmp_path / f'store/{file}.npy')
    values[2] = value
    np.save(tmp_path / f'store/{file}.npy', values)
    store = RegionStore(tmp_path / 'store')
    assert len(store[4].boxes) == 2
    with pytest.raises(InputError, match=said):
        store[7]
