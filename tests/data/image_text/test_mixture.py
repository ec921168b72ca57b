"""Several sources of shards, mixed by weights."""

from __future__ import annotations

import itertools

import pytest

from clipdense.data.image_text import ShardSource
from clipdense.utils.errors import InputError

from .conftest import as_rank, pack, play, read, sample, samples, stream

WEIGHTS = {'low': 1, 'high': 3}


@pytest.fixture
def folders(tmp_path):
    """Two sources of four shards: numbers below 100, and from 100 on."""
    for name, first in (('low', 0), ('high', 100)):
        (tmp_path / name).mkdir()
        for shard in range(4):
            content = pack(samples(first + 10 * shard, 7))
            (tmp_path / name / f'{shard}.tar').write_bytes(content)
    return tmp_path


def mixed(folders, weights=WEIGHTS, batch_size=2, **settings):
    urls = {name: {'urls': str(folders / name), 'weight': weight} for name, weight in weights.items()}
    return stream(urls, batch_size, **{'samples_per_epoch': 400, **settings})


def counts(numbers):
    high = sum(number >= 100 for number in numbers)
    return {'low': len(numbers) - high, 'high': high}


@pytest.mark.parametrize('settings', [{}, {'resampled': True}, {'shuffle': 0}])
def test_sources_are_mixed_by_their_weights(folders, settings):
    found = read(mixed(folders, **settings))
    assert len(found) == 400
    assert 270 < counts(found)['high'] < 330
    every = set(itertools.chain(range(7), range(10, 17), range(20, 27), range(30, 37)))
    if not settings.get('resampled'):
        assert {number % 100 for number in found} == every, 'a source begins anew'


@pytest.mark.parametrize('workers', [1, 2, 3])
def test_what_was_drawn_is_known_without_reading(folders, monkeypatch, workers):
    """By all ranks together, for any part of an epoch."""
    ranks, batches = 2 if workers < 3 else 1, []
    for rank in range(ranks):
        as_rank(monkeypatch, rank, ranks)
        dataset = mixed(folders)
        dataset.set_epoch(3)
        batches.append(play(monkeypatch, dataset, workers))
    for first, last in ((0, 0), (0, 1), (1, 5), (4, 80), (0, len(batches[0]))):
        flat = [number for of_rank in batches for batch in of_rank[first:last] for number in batch]
        assert dataset.drawn(3, first, last, workers) == counts(flat)


def test_many_samples_are_counted_in_blocks(folders):
    dataset = mixed(folders, samples_per_epoch=20_000, batch_size=10)
    parts = [dataset.drawn(0, first, first + 400, 3) for first in range(0, 2000, 400)]
    assert {name: sum(part[name] for part in parts) for name in WEIGHTS} == dataset.drawn(0, 0, 2000, 3)
    assert sum(dataset.drawn(0, 0, 2000, 3).values()) == 20_000


@pytest.mark.parametrize('workers', [1, 2])
def test_resumes_exactly(folders, monkeypatch, workers):
    dataset = mixed(folders, samples_per_epoch=60, batch_size=3)
    dataset.set_epoch(1)
    whole = play(monkeypatch, dataset, workers, 3)
    for skipped in (1, 7, 19):
        dataset.set_epoch(1)
        dataset.skip_batches(skipped)
        assert play(monkeypatch, dataset, workers, 3) == whole[skipped:]
    dataset.set_epoch(2)
    assert play(monkeypatch, dataset, workers, 3) != whole


def test_a_single_named_source_is_read_completely(folders):
    assert sorted(read(stream({'low': ShardSource(str(folders / 'low'))}))) == sorted(
        10 * shard + number for shard in range(4) for number in range(7)
    )


@pytest.mark.parametrize('count', [2, 40])
def test_a_source_without_captions_ends_the_run_at_its_start(folders, count):
    for path in (folders / 'high').glob('*.tar'):
        path.write_bytes(pack([member for n in range(count) for member in sample(n, txt=None)]))
    with pytest.raises(InputError, match=r"source 'high': .*(no readable sample|no caption)"):
        next(iter(mixed(folders, {'low': 300, 'high': 1})))


@pytest.mark.parametrize(
    ('urls', 'message'),
    [
        ({}, 'urls has no sources'),
        ({'low': {'weight': 1}}, "source 'low' has no urls"),
        (
            {'low': {'urls': 'LOW', 'wieght': 1}},
            "source 'low' has no setting 'wieght'.*Did you mean",
        ),
        ({'low': {'urls': 'LOW', 'weight': 0}}, "weight of source 'low' must be a positive number, got 0"),
        ({'low': {'urls': 'LOW', 'weight': -1}}, 'must be a positive number'),
        ({'low': {'urls': 'LOW', 'weight': float('nan')}}, 'must be a positive number, got nan'),
        ({'low': {'urls': 'LOW', 'weight': '1'}}, "must be a positive number, got '1'"),
        ({'low': {'urls': 'LOW', 'weight': True}}, 'must be a positive number, got True'),
        ({'urls': 'LOW', 'weight': 3}, "source 'weight' must be shards or dict.urls=..., .*got 3"),
        ({3: 'LOW'}, 'name of a source must be a text without "/", got 3'),
        ({'a/b': 'LOW'}, 'name of a source must be a text without'),
        ({'low': 'LOW', 'none': []}, "source 'none': no shards given"),
        ({'low': 'LOW', 'none': 'EMPTY'}, "source 'none': no shards in"),
        ({'low': {'urls': 'LOW', 'caption': 'json'}}, 'is not a source of captions'),
        ({'low': 'LOW', 'high': 'nowhere.tar'}, "source 'high': shard nowhere.tar does not exist"),
        ({'low': 'LOW', 'high': 'HIGH'}, 'several sources need samples_per_epoch'),
        ({'low': 'LOW', 'high': 'LOW'}, "sources 'low' and 'high' both have .*0.tar with the captions 'txt'"),
    ],
)
def test_refusals(folders, urls, message):
    (folders / 'empty').mkdir()

    def real(value):
        return str(folders / value.lower()) if value in ('LOW', 'HIGH', 'EMPTY') else value

    given = {
        name: {key: real(value) for key, value in one.items()} if isinstance(one, dict) else real(one)
        for name, one in urls.items()
    }
    with pytest.raises(InputError, match=message):
        stream(given)


def test_a_source_with_too_few_shards_for_the_workers(folders):
    (folders / 'few').mkdir()
    (folders / 'few' / '0.tar').write_bytes(pack(samples(0, 3)))
    dataset = mixed(folders, {'low': 1, 'few': 1})
    with pytest.raises(InputError, match="source 'few': 1 shards are too few for 1 ranks with 2 workers"):
        dataset.check_workers(2)


def test_one_shard_may_give_two_kinds_of_captions(tmp_path):
    both = [sample(number, json=f'{{"alt": "{number + 100}"}}'.encode()) for number in range(8)]
    content = pack(itertools.chain(*both))
    (tmp_path / '0.tar').write_bytes(content)
    urls = {'txt': tmp_path, 'alt': {'urls': tmp_path, 'caption': 'json:alt'}}
    found = [int(item['token_ids']) for item in stream(urls, samples_per_epoch=60)]
    assert 10 < counts(found)['high'] < 50


def test_a_source_that_is_hardly_ever_drawn(folders):
    with pytest.warns(
        UserWarning, match="source 'low' has a weight of 1e-09 .* less than one of the 400 samples"
    ):
        mixed(folders, {'low': 1e-9, 'high': 1})
