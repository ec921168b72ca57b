"""Tar shards with faults: what is left out, what is told, and what ends a run."""

from __future__ import annotations

import gzip
import io
import itertools
import tarfile

import numpy as np
import pytest
from PIL import Image

from clipdense.utils.errors import InputError

from .conftest import ALL, load, make_image, pack, play, read, sample, samples, stream

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
            ({'png': None}, 'no image'),
            ({'txt': None}, 'no caption'),
            ({'txt': b'  \n'}, 'no caption'),
            ({'txt': b'caf\xe9'}, 'caption is not UTF-8'),
            ({'png': make_image(9)[:50]}, 'image'),
            ({'png': b''}, 'image'),
            ({'png': b'<html>404</html>'}, 'image'),
        ],
        ids=['no image', 'no caption', 'blank', 'latin-1', 'cut', 'empty', 'html'],
    )
    def test_bad_samples_are_counted_and_named(self, tmp_path, log, members, cause):
        (tmp_path / 'a.tar').write_bytes(pack(samples(0, 3) + sample(3, **members) + samples(4, 3)))
        dataset = stream(tmp_path, shuffle=0)
        found = read(dataset)
        assert found == ([0, 1, 2, 4, 4, 5, 6] if cause == 'image' else [0, 1, 2, 4, 5, 6])
        assert (dataset.faults.causes, dataset.faults.seen) == ({cause: 1}, 7)
        assert len(log) == 1
        assert log[0].startswith(f'skipped ({cause}): ')
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
        assert (line := log[-1]).startswith('skipped (shard): ')
        assert 'a.tar: damaged at byte' in line
        assert (f'after sample a.tar/{kept - 1:06d}' in line) is (kept > 0)

    def test_halves_of_different_shards_are_never_paired(self, tmp_path, log):
        # Both have a sample 000000: the cut one's image must not meet the whole one's caption.
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
