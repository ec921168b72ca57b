"""Tar shards: order, epochs, resuming."""

from __future__ import annotations

import gzip
import io
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from clipdense.data.batches import collate
from clipdense.data.image_text import shards as shards_module
from clipdense.data.transforms import TrainCrop
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image

from .conftest import ALL, as_rank, load, make_image, pack, play, read, sample, samples, stream


class TestReading:
    def test_everything_once_in_order(self, folder):
        assert read(stream(folder, shuffle=0)) == ALL

    def test_from_a_config(self, folder):
        crop = {'type': 'TrainCrop', 'size': 6}
        dataset = DATASETS.build(
            {'type': 'ImageTextShards', 'urls': folder, 'batch_size': 4, 'transform': crop}
        )
        item = next(iter(dataset))
        assert (item['images'].shape, item['images'].dtype) == ((3, 6, 6), torch.uint8)
        assert (item['token_ids'].shape, item['token_ids'].dtype) == ((77,), torch.int64)

    @pytest.mark.parametrize('workers', [1, 2, 3, 6])
    @pytest.mark.parametrize('shuffle', [0, 5, 1000])
    def test_every_sample_once_whatever_the_workers(self, folder, monkeypatch, workers, shuffle):
        batches = play(monkeypatch, stream(folder, shuffle=shuffle), workers)
        assert sorted(itertools.chain(*batches)) == ALL

    @pytest.mark.parametrize('kind', ['jpg', 'jpeg', 'JPG', 'png', 'webp'])
    def test_image_formats(self, tmp_path, kind):
        form = {'jpg': 'JPEG', 'jpeg': 'JPEG', 'JPG': 'JPEG', 'png': 'PNG', 'webp': 'WEBP'}[kind]
        (tmp_path / 'a.tar').write_bytes(pack(sample(7, **{'png': None, kind: make_image(200, form)})))
        (item,) = stream(tmp_path, shuffle=0)
        assert abs(int(item['images'][0, 2, 2]) - 200) < 4

    @pytest.mark.parametrize('suffix', ['.tar.gz', '.tgz'])
    def test_gzip(self, tmp_path, suffix):
        (tmp_path / f'a{suffix}').write_bytes(gzip.compress(pack(samples(0, 5))))
        assert read(stream(tmp_path, shuffle=0)) == [0, 1, 2, 3, 4]

    def test_commands(self, folder):
        assert read(stream(f'pipe:cat {folder}/s-03.tar', shuffle=0)) == ALL[21:28]

    @pytest.mark.parametrize(
        ('caption', 'members', 'expected'),
        [
            ('txt', {}, {7}),
            ('json:text', {'json': {'text': ' 8 '}}, {8}),
            ('json:all', {'json': {'all': ['8', '9', '', None]}}, {8, 9}),
            (('txt', 'json:text'), {'json': {'text': '8'}}, {7, 8}),
            (('txt', 'json:text'), {}, {7}),
            (('txt', 'json:text'), {'txt': None, 'json': {'text': '8'}}, {8}),
        ],
        ids=['txt', 'field', 'list', 'both', 'first only', 'second only'],
    )
    def test_captions_take_turns(self, tmp_path, caption, members, expected):
        members = {key: json.dumps(data).encode() if data else data for key, data in members.items()}
        (tmp_path / 'a.tar').write_bytes(pack(sample(7, **members)))
        dataset = stream(tmp_path, shuffle=0, caption=caption)
        found = set()
        for epoch in range(12):
            dataset.set_epoch(epoch)
            (item,) = dataset
            found.add(int(item['token_ids']))
        assert found == expected


class TestOrder:
    def test_depends_on_seed_and_epoch(self, folder):
        dataset, orders = stream(folder), {}
        for epoch in (0, 1, 0):
            dataset.set_epoch(epoch)
            orders.setdefault(epoch, []).append(read(dataset))
        assert orders[0][0] == orders[0][1] != orders[1][0]
        assert sorted(orders[0][0]) == ALL
        assert read(stream(folder, seed=1)) != orders[0][0]

    def test_shards_and_samples_are_both_shuffled(self, folder):
        order = read(stream(folder, shuffle=14))
        assert [number // 10 for number in order] != sorted(number // 10 for number in order)
        changes = sum(a // 10 != b // 10 for a, b in itertools.pairwise(order))
        assert changes > 12  # five, were only shards shuffled

    @pytest.mark.parametrize(('ranks', 'workers'), [(2, 1), (3, 2), (2, 3)])
    def test_ranks_share_without_overlap(self, folder, monkeypatch, ranks, workers):
        found = []
        for rank in range(ranks):
            as_rank(monkeypatch, rank, ranks)
            dataset = stream(folder)
            dataset.set_epoch(4)
            found.extend(itertools.chain(*play(monkeypatch, dataset, workers)))
        assert sorted(found) == ALL

    def test_crops_depend_on_the_sample_not_on_the_place(self, tmp_path):
        noise = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(noise, 'PNG')
        members = [member for number in range(6) for member in sample(number, png=noise.getvalue())]
        for shard in range(2):
            (tmp_path / f'{shard}.tar').write_bytes(pack(members[6 * shard : 6 * shard + 6]))

        def crops(epoch, workers):
            dataset = stream(tmp_path, 1, TrainCrop(4, scale=(0.2, 1)))
            dataset.set_epoch(epoch)
            loader = DataLoader(dataset, 1, num_workers=workers, collate_fn=collate)
            return {int(batch['token_ids']): batch['images'].numpy().tobytes() for batch in loader}

        assert crops(0, 0) == crops(0, 2)
        assert not set(crops(0, 0).values()) & set(crops(1, 0).values())
        assert len(set(crops(0, 0).values())) == 6

    def test_a_second_turn_in_one_epoch_has_other_crops(self, tmp_path):
        noise = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(noise, 'PNG')
        (tmp_path / '0.tar').write_bytes(pack(sample(3, png=noise.getvalue())))
        items = list(stream(tmp_path, 1, TrainCrop(4, scale=(0.2, 1)), samples_per_epoch=4))
        assert len({item['images'].numpy().tobytes() for item in items}) == 4


class TestFixedEpochs:
    @pytest.mark.parametrize('workers', [1, 2, 3])
    @pytest.mark.parametrize('resampled', [False, True])
    @pytest.mark.parametrize('size', [8, 30, 100])
    def test_every_rank_gives_the_same_number_of_full_batches(
        self, folder, monkeypatch, workers, resampled, size
    ):
        (folder / 's-00.tar').write_bytes(pack(samples(0, 1)))  # shards of unequal length
        for rank in range(2):
            as_rank(monkeypatch, rank, 2)
            dataset = stream(folder, samples_per_epoch=size, resampled=resampled)
            batches = play(monkeypatch, dataset, workers)
            assert len(dataset) == size // 4 * 2
            assert [len(batch) for batch in batches] == [2] * (size // 4)

    def test_goes_through_the_shards_again_in_another_order(self, folder):
        order = read(stream(folder, shuffle=1, samples_per_epoch=84))  # no buffer to speak of
        assert sorted(order[:42]) == sorted(order[42:]) == ALL
        assert order[:42] != order[42:]

    def test_resampled_shards_may_be_fewer_than_workers(self, folder, monkeypatch):
        dataset = stream(folder / 's-00.tar', resampled=True, samples_per_epoch=20)
        assert len(play(monkeypatch, dataset, 3)) == 10

    def test_without_a_size_there_is_no_length(self, folder):
        with pytest.raises(TypeError, match='samples_per_epoch'):
            len(stream(folder))


class TestResuming:
    @pytest.mark.parametrize('workers', [1, 2, 3])
    @pytest.mark.parametrize(
        'settings', [{}, {'shuffle': 0}, {'resampled': True}], ids=['shuffled', 'in order', 'resampled']
    )
    def test_goes_on_exactly(self, folder, monkeypatch, workers, settings):
        dataset = stream(folder, 3, samples_per_epoch=30, **settings)
        dataset.set_epoch(2)
        whole = play(monkeypatch, dataset, workers, 3)
        assert len(whole) == 10
        for skipped in range(1, 12):
            dataset.set_epoch(2)
            dataset.skip_batches(skipped)
            assert play(monkeypatch, dataset, workers, 3) == whole[skipped:]

    @pytest.mark.parametrize('workers', [0, 1, 3])
    def test_real_workers_do_as_played(self, folder, monkeypatch, workers):
        dataset = stream(folder, 3, samples_per_epoch=30)
        whole = load(dataset, workers, 3)
        dataset.skip_batches(4)
        assert load(dataset, workers, 3) == whole[4:]
        dataset.set_epoch(0)
        assert play(monkeypatch, dataset, max(workers, 1), 3) == whole

    def test_the_next_epoch_starts_at_its_beginning(self, folder):
        dataset = stream(folder, samples_per_epoch=20)
        dataset.set_epoch(1)
        whole = load(dataset)
        dataset.set_epoch(0)
        dataset.skip_batches(3)
        dataset.set_epoch(1)
        assert load(dataset) == whole

    def test_nothing_is_decoded_on_the_way(self, folder, monkeypatch):
        decoded = []
        monkeypatch.setattr(shards_module, 'read_image', lambda data: decoded.append(1) or read_image(data))
        dataset = stream(folder, samples_per_epoch=20)
        dataset.skip_batches(8)
        assert len(load(dataset)) == 2
        assert len(decoded) == 4

    @pytest.mark.parametrize('broken', [[3], [0, 1], [4, 5, 6, 7], [19], [5, 6, 30]])
    def test_broken_images_do_not_move_the_place(self, tmp_path, broken, log):
        for shard in range(2):
            numbers_here = range(20 * shard, 20 * shard + 20)
            content = [sample(n, png=b'nonsense') if n in broken else sample(n) for n in numbers_here]
            (tmp_path / f'{shard}.tar').write_bytes(pack(itertools.chain(*content)))
        dataset = stream(tmp_path, shuffle=0, samples_per_epoch=36)
        whole = load(dataset)
        flat = list(itertools.chain(*whole))
        assert flat == [next(n for n in range(at, 40) if n not in broken) for at in range(36)]
        for skipped in range(18):
            dataset.set_epoch(0)
            dataset.skip_batches(skipped)
            assert load(dataset) == whole[skipped:]

    def test_workers_that_persist_follow(self, folder):
        dataset = stream(folder, samples_per_epoch=20)
        loader = DataLoader(dataset, 2, num_workers=2, persistent_workers=True, collate_fn=collate)
        found = []
        for epoch, skipped in ((0, 0), (1, 0), (0, 0), (0, 4)):
            dataset.set_epoch(epoch)
            dataset.skip_batches(skipped)
            found.append([batch['token_ids'].flatten().tolist() for batch in loader])
        assert found[0] == found[2] != found[1]
        assert found[3] == found[0][4:]


class TestRefusing:
    @pytest.mark.parametrize(
        ('ranks', 'workers', 'message'),
        [
            (4, 2, '6 shards are too few for 4 ranks with 2 workers each; use at most 1 workers'),
            (1, 7, 'use at most 6 workers'),
        ],
    )
    def test_more_workers_than_shards(self, folder, monkeypatch, ranks, workers, message):
        as_rank(monkeypatch, 0, ranks)
        dataset = stream(folder)
        with pytest.raises(InputError, match=message):
            dataset.check_workers(workers)
        with pytest.raises(InputError, match=message):
            play(monkeypatch, dataset, workers)

    @pytest.mark.parametrize(
        ('settings', 'ranks', 'message'),
        [
            ({}, 7, '6 shards are too few for 7 ranks'),
            ({'resampled': True}, 1, 'needs samples_per_epoch'),
            ({'samples_per_epoch': 7}, 4, 'less than one batch of 2 for each of 4 ranks'),
        ],
    )
    def test_up_front(self, folder, monkeypatch, settings, ranks, message):
        as_rank(monkeypatch, 0, ranks)
        with pytest.raises(InputError, match=message):
            stream(folder, **settings)
