"""Tar shards: order, resuming, damage."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import tarfile
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from clipdense.data import shards as shards_module
from clipdense.data.shard_files import list_shards
from clipdense.data.shards import ImageTextShards
from clipdense.data.transforms import CentreCrop, TrainCrop, collate
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image

CROP = CentreCrop(4)


def numbers(texts):
    """A tokenizer for captions that are numbers."""
    return np.array([[int(text)] for text in texts])


@cache
def picture(number, form='PNG'):
    file = io.BytesIO()
    Image.new('RGB', (5, 6), (number, 0, 0)).save(file, form)
    return file.getvalue()


def sample(number, **members):
    """(name, bytes) of a sample; ``None`` leaves a member out."""
    content = {'png': picture(number % 256), 'txt': str(number).encode(), **members}
    return [(f'{number:06d}.{kind}', data) for kind, data in content.items() if data is not None]


def pack(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def samples(first, count):
    return [member for number in range(first, first + count) for member in sample(number)]


@pytest.fixture
def folder(tmp_path):
    """Six shards of seven samples; sample ``i`` has the number ``i`` as its caption and its red."""
    for shard in range(6):
        (tmp_path / f's-{shard:02d}.tar').write_bytes(pack(samples(10 * shard, 7)))
    return tmp_path


ALL = [10 * shard + number for shard in range(6) for number in range(7)]


@pytest.fixture
def log(monkeypatch):
    """Lines that were logged."""
    lines = []
    monkeypatch.setattr('clipdense.data.faults.print_log', lambda line, logger, level: lines.append(line))
    return lines


def stream(urls, batch_size=2, transform=CROP, **settings):
    return ImageTextShards(urls, batch_size, transform, numbers, **settings)


def read(dataset):
    """The numbers that a stream gives, whose pictures must be theirs."""
    items = list(dataset)
    captions = [int(item['token_ids']) for item in items]
    assert [int(item['images'][0, 2, 2]) for item in items] == [number % 256 for number in captions]
    return captions


def load(dataset, workers=0, batch_size=2):
    """Batches of numbers, through a loader."""
    loader = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=collate)
    return [batch['token_ids'].flatten().tolist() for batch in loader]


def play(monkeypatch, dataset, workers, batch_size=2):
    """What ``load`` gives, without processes: each worker in turn gives a batch until all have ended."""
    streams = []
    for worker in range(workers):
        info = SimpleNamespace(id=worker, num_workers=workers)
        monkeypatch.setattr(shards_module, 'get_worker_info', lambda info=info: info)
        streams.append(iter(dataset))
    turns = itertools.zip_longest(*(batched(stream, batch_size) for stream in streams))
    return [batch for turn in turns for batch in turn if batch]


def batched(items, size):
    while batch := [int(item['token_ids']) for item in itertools.islice(items, size)]:
        yield batch


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(shards_module.dist, 'rank', lambda: rank)
    monkeypatch.setattr(shards_module.dist, 'world_size', lambda: world_size)


class TestListing:
    @pytest.mark.parametrize(
        ('urls', 'expected'),
        [
            ('{}/s-{{00..02}}.tar', [0, 1, 2]),
            ('{}/s-{{00,05}}.tar', [0, 5]),
            ('{}/s-0[13].tar', [1, 3]),
            ('{}', range(6)),
            ('{}/s-04.tar', [4]),
            ('{0}/s-04.tar::{0}/s-00.tar', [4, 0]),
            (['{}/s-05.tar', '{}/s-{{01..02}}.tar'], [5, 1, 2]),
        ],
        ids=['range', 'list in braces', 'wildcard', 'folder', 'file', 'two', 'list'],
    )
    def test_local(self, folder, urls, expected):
        urls = urls.format(folder) if isinstance(urls, str) else [url.format(folder) for url in urls]
        assert list_shards(urls) == [f'{folder}/s-{shard:02d}.tar' for shard in expected]

    @pytest.mark.parametrize(
        'url', ['https://x.org/{0..1}.tar', 'pipe:cat x{0..1}.tar', 's3.x/a:b/{0..1}.tar']
    )
    def test_urls_are_left_alone(self, url):
        if url.startswith('s3'):
            with pytest.raises(InputError, match='not there'):
                list_shards(url)
        else:
            assert list_shards(url) == [url.replace('{0..1}', '0'), url.replace('{0..1}', '1')]

    def test_a_file_whose_name_looks_like_a_pattern(self, folder):
        os.rename(folder / 's-00.tar', folder / 's-[1]{a,b}.tar')
        assert list_shards(folder / 's-[1]{a,b}.tar') == [str(folder / 's-[1]{a,b}.tar')]

    @pytest.mark.parametrize(
        ('urls', 'message'),
        [
            ('{}/s-{{04..07}}.tar', r'shard .*s-06\.tar and 1 more of 4 is not there'),
            ('{}/t-00.tar', "Did you mean 's-00.tar'"),
            ('{}/*.tgz', 'no shards in'),
            ('{}/s-{{00..01.tar', 'cannot be expanded|not there'),
            ('s3://bucket/0.tar', 'shards are opened from .*https.*, not s3'),
            ([], 'no shards named'),
        ],
    )
    def test_refuses(self, folder, urls, message):
        urls = urls.format(folder) if isinstance(urls, str) else urls
        with pytest.raises(InputError, match=message):
            list_shards(urls)

    def test_refuses_a_folder_without_shards(self, tmp_path):
        with pytest.raises(InputError, match='no shards in'):
            list_shards(tmp_path)


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
    def test_picture_formats(self, tmp_path, kind):
        form = {'jpg': 'JPEG', 'jpeg': 'JPEG', 'JPG': 'JPEG', 'png': 'PNG', 'webp': 'WEBP'}[kind]
        (tmp_path / 'a.tar').write_bytes(pack(sample(7, **{'png': None, kind: picture(200, form)})))
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
    def test_broken_pictures_do_not_move_the_place(self, tmp_path, broken, log):
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


BLOCK = 512


def members_end(data, count):
    """Where the first ``count`` members of a tar end."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        last = tar.getmembers()[count - 1]
    return last.offset_data + -(-last.size // BLOCK) * BLOCK


class TestDamage:
    @pytest.mark.parametrize(
        ('members', 'cause'),
        [
            ({'png': None}, 'no picture'),
            ({'txt': None}, 'no caption'),
            ({'txt': b'  \n'}, 'no caption'),
            ({'txt': b'caf\xe9'}, 'caption is not UTF-8'),
            ({'png': picture(9)[:50]}, 'picture'),
            ({'png': b''}, 'picture'),
            ({'png': b'<html>404</html>'}, 'picture'),
        ],
        ids=['no picture', 'no caption', 'blank', 'latin-1', 'cut', 'empty', 'html'],
    )
    def test_bad_samples_are_counted_and_named(self, tmp_path, log, members, cause):
        (tmp_path / 'a.tar').write_bytes(pack(samples(0, 3) + sample(3, **members) + samples(4, 3)))
        dataset = stream(tmp_path, shuffle=0)
        found = read(dataset)
        assert found == ([0, 1, 2, 4, 4, 5, 6] if cause == 'picture' else [0, 1, 2, 4, 5, 6])
        assert (dataset.faults.causes, dataset.faults.seen) == ({cause: 1}, 7)
        assert len(log) == 1
        assert log[0].startswith(f'left out ({cause}): ')
        assert 'a.tar' in log[0]
        assert '000003' in log[0]

    @pytest.mark.parametrize(
        ('record', 'cause'),
        [(b'{"text": ', 'caption is not JSON'), (b'["a"]', 'no caption'), (b'{"text": 3}', 'no caption')],
    )
    def test_bad_json(self, tmp_path, log, record, cause):
        good = sample(0, json=b'{"text": "0"}')
        (tmp_path / 'a.tar').write_bytes(pack(good + sample(1, json=record)))
        dataset = stream(tmp_path, caption='json:text')
        assert read(dataset) == [0]
        assert dataset.faults.causes == {cause: 1}

    @pytest.mark.parametrize(
        ('members', 'cause'),
        [
            (sample(0) + sample(1) + sample(1) + sample(2), 'duplicate member'),
            (sample(0) + sample(1) + sample(2) + sample(1), 'duplicate key'),
        ],
        ids=['side by side', 'apart'],
    )
    def test_duplicates_are_counted_and_the_first_is_kept(self, tmp_path, log, members, cause):
        (tmp_path / 'a.tar').write_bytes(pack(members))
        dataset = stream(tmp_path, shuffle=0)
        assert read(dataset) == [0, 1, 2]
        assert set(dataset.faults.causes) == {cause}

    @pytest.mark.parametrize(
        ('cut', 'kept'),
        [
            (lambda data: data[: members_end(data, 5) + BLOCK + 20], 2),
            (lambda data: data[: members_end(data, 6)], 3),
            (lambda data: data[: members_end(data, 6) + 100], 3),
            (lambda data: data[: members_end(data, 6)] + b'\x07' * BLOCK + data[members_end(data, 7) :], 3),
            (lambda data: data[:700], 0),
            (lambda data: b'<!doctype html>' * 100, 0),
            (lambda data: b'', 0),
            (lambda data: bytes(range(256)) * 40, 0),
        ],
        ids=[
            'in a member',
            'between members',
            'in a header',
            'rubbish',
            'at once',
            'html',
            'empty',
            'no tar',
        ],
    )
    def test_a_damaged_shard_ends_alone(self, tmp_path, log, cut, kept):
        data = pack(samples(0, 7))
        (tmp_path / 'a.tar').write_bytes(cut(data))
        (tmp_path / 'b.tar').write_bytes(pack(samples(100, 3)))
        dataset = stream(tmp_path, shuffle=0)
        assert read(dataset) == [*range(kept), 100, 101, 102]
        assert dataset.shard_faults.causes == {'shard': 1}
        assert (line := log[-1]).startswith('left out (shard): ')
        assert 'a.tar: damaged at byte' in line
        assert (f'after sample a.tar/{kept - 1:06d}' in line) is (kept > 0)

    def test_halves_of_different_shards_are_never_paired(self, tmp_path, log):
        # Both have a sample 000000: the cut one's picture must not meet the whole one's caption.
        data = pack(sample(0))
        (tmp_path / 'a.tar').write_bytes(data[: members_end(data, 1)])
        (tmp_path / 'b.tar').write_bytes(pack(sample(0, png=None) + sample(1)))
        assert read(stream(tmp_path, shuffle=0)) == [1]

    @pytest.mark.parametrize('keep', [0.5, 0.9, 0.995])
    def test_cut_gzip(self, tmp_path, log, keep):
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, 'PNG')
        data = gzip.compress(pack([m for n in range(9) for m in sample(n, png=file.getvalue())]))
        (tmp_path / 'a.tgz').write_bytes(data[: int(len(data) * keep)])
        (tmp_path / 'b.tar').write_bytes(pack(sample(100)))
        dataset = stream(tmp_path, shuffle=0)
        *found, last = [int(item['token_ids']) for item in dataset]
        assert (found, last) == (list(range(len(found))), 100)
        assert dataset.shard_faults.causes == {'shard': 1}
        assert log[-1].endswith('Compressed file ended before the end-of-stream marker was reached')

    @pytest.mark.parametrize(
        'url', ['pipe:false', 'pipe:cat /nonexistent/x.tar 2>/dev/null', 'file:/nonexistent.tar']
    )
    def test_what_cannot_be_opened_is_counted(self, folder, log, url):
        assert read(stream([url, f'{folder}/s-01.tar'], shuffle=0)) == ALL[7:14]
        assert url in log[0]

    def test_too_many_bad_samples_end_the_run(self, tmp_path):
        content = itertools.chain(*(sample(n, txt=None) if n % 2 else sample(n) for n in range(60)))
        (tmp_path / 'a.tar').write_bytes(pack(content))
        with pytest.raises(
            InputError, match=r'11 of 22 samples could not be used.*no caption.*a\.tar, sample 000021'
        ):
            list(stream(tmp_path))

    @pytest.mark.parametrize('workers', [1, 2])
    def test_too_many_bad_shards_end_the_run(self, folder, monkeypatch, log, workers):
        for shard in (1, 3, 5):
            (folder / f's-{shard:02d}.tar').write_bytes(b'<html>')
        with pytest.raises(InputError, match='shards could not be used'):
            play(monkeypatch, stream(folder), workers)

    def test_shards_without_any_sample(self, tmp_path):
        (tmp_path / 'a.tar').write_bytes(pack([('000.cls', b'1'), ('001.cls', b'2')]))
        with pytest.raises(InputError, match=r'no readable sample in .*a\.tar'):
            list(stream(tmp_path))

    def test_what_was_skipped_counts_as_seen(self, tmp_path, log):
        content = itertools.chain(*(sample(n, txt=None) if n % 100 == 0 else sample(n) for n in range(1300)))
        (tmp_path / 'a.tar').write_bytes(pack(content))
        dataset = stream(tmp_path, 10, shuffle=0, samples_per_epoch=1200)
        dataset.skip_batches(119)
        assert len(load(dataset, batch_size=10)) == 1  # 12 lost of 1212 and more: one in a hundred is allowed


class TestRefusing:
    @pytest.mark.parametrize(
        ('ranks', 'workers', 'message'),
        [
            (4, 2, '6 shards are too few for 4 ranks with 2 workers each: use 1 workers at most'),
            (1, 7, 'use 6'),
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
            ({'resampled': True}, 1, 'give samples_per_epoch'),
            ({'samples_per_epoch': 7}, 4, 'less than one batch of 2 for each of 4 ranks'),
        ],
    )
    def test_up_front(self, folder, monkeypatch, settings, ranks, message):
        as_rank(monkeypatch, 0, ranks)
        with pytest.raises(InputError, match=message):
            stream(folder, **settings)
