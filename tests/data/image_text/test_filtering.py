"""Filters of shards: reasons, duplicates over all shards, and parts that give the same bytes."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from clipdense.data.image_text import filtering
from clipdense.data.image_text.filtering import filter_shards
from clipdense.data.image_text.filters import FilterRules, PairScore, difference_hash, judge
from clipdense.data.image_text.shard_files import RawPair
from clipdense.utils.errors import InputError
from clipdense.utils.jobs import Part

from .conftest import pack


def photo(seed: int, size=(40, 30), form='PNG') -> bytes:
    """Smooth noise, so that copies of another size look alike."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(file, form)
    return file.getvalue()


def pair(image=None, *captions: str) -> RawPair:
    return RawPair('a.tar/0', photo(0) if image is None else image, list(captions) or ['two words'], 0)


@pytest.mark.parametrize(
    ('rules', 'sample', 'reason'),
    [
        ({'min_size': 30}, pair(), ''),
        ({'min_size': 31}, pair(), 'small image'),
        ({'max_aspect': 1.34}, pair(), ''),
        ({'max_aspect': 1.33}, pair(), 'aspect ratio'),
        ({'max_aspect': 3}, pair(photo(0, (10, 90))), 'aspect ratio'),
        ({'min_size': 1}, pair(b'nonsense'), 'unreadable image'),
        ({'unique': ('look',)}, pair(photo(0)[:-300]), 'unreadable image'),
        ({'min_words': 2}, pair(), ''),
        ({'min_words': 3}, pair(), 'short caption'),
        ({'min_words': 3}, pair(None, 'two words', 'and three words'), ''),
        ({'max_words': 1}, pair(), 'long caption'),
        ({'min_chars': 9}, pair(), ''),
        ({'min_chars': 10}, pair(), 'short caption'),
        ({'alphabet': ('latin',)}, pair(None, 'Ein süßer Hund, 12 €'), ''),
        ({'alphabet': ('latin',)}, pair(None, 'собака'), 'other alphabet'),
        ({'alphabet': ('latin', 'cyrillic')}, pair(None, 'собака dog'), ''),
        ({'alphabet': ('latin',)}, pair(None, '12345 !'), 'other alphabet'),
        ({'alphabet': ('latin',)}, pair(None, 'ｄｏｇ full width'), ''),
        ({'alphabet': ('cjk',)}, pair(None, '一只狗'), ''),
    ],
)
def test_rules(rules, sample, reason):
    (found,) = judge([sample], FilterRules(**rules))
    assert found.reason == reason


def test_scores_are_those_of_passing_captions():
    seen = []

    class Scorer:
        digest, min_score, max_score = 'x', None, 1.0

        def __call__(self, images, captions):
            seen.extend(captions)
            return [[PairScore(0.1 * len(text)) for text in some] for some in captions]

    samples = [pair(None, 'a', 'a dog'), pair(None, 'b'), pair(None, 'a cat runs')] * 15
    found = judge(samples, FilterRules(min_words=2, min_score=0.6), Scorer())
    assert [one.reason for one in found] == ['low score', 'short caption', ''] * 15
    assert [one.score for one in found[:3]] == [0.5, None, pytest.approx(1.0)]
    assert seen == [['a dog'], ['a cat runs']] * 15


@pytest.mark.parametrize(
    ('score', 'captions', 'reason', 'passing'),
    [
        (-0.4, ['web', 'synthetic'], '', ['web', 'synthetic']),
        (-0.5, ['synthetic'], '', ['synthetic']),
        (-0.6, ['web', 'synthetic'], '', ['web']),
        (-0.6, ['synthetic'], 'improbable caption', []),
        (None, ['web', 'synthetic'], '', ['web']),
        (float('nan'), ['synthetic'], 'improbable caption', []),
        (None, ['web'], '', ['web']),
    ],
)
@pytest.mark.parametrize('scored', [False, True])
def test_captions_that_their_model_found_improbable(score, captions, reason, passing, scored):
    class Scorer:
        digest, min_score, max_score = 'x', None, 1.0

        def __call__(self, images, captions):
            return [[PairScore(0.5) for _ in some] for some in captions]

    members = tuple('txt' if one == 'web' else 'synthetic.json:caption' for one in captions)
    sample = pair(None, *captions)._replace(members=members, synthetic_score=score)
    (found,) = judge([sample], FilterRules(min_caption_score=-0.5), Scorer() if scored else None)
    assert found.reason == reason
    assert [one.source for one in found.pairs if one.kept] == passing
    assert {one.source for one in found.pairs} == set(captions), 'also those that do not pass are counted'
    assert all((one.score is None) != (scored and one.kept) for one in found.pairs)
    assert not judge([sample], FilterRules())[0].pairs


def test_the_difference_hash_sees_copies_only():
    def look(data):
        return difference_hash(Image.open(io.BytesIO(data)))

    assert look(photo(1)) == look(photo(1, form='BMP'))
    near = [bin(look(photo(seed)) ^ look(photo(seed, (160, 120)))).count('1') for seed in range(20)]
    assert max(near) <= 6
    assert len({look(photo(seed)) for seed in range(50)}) == 50


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'min_size': -1}, 'min_size must be at least 0'),
        ({'max_aspect': 0.5}, 'max_aspect is longer side / shorter side, at least 1; got 0.5'),
        ({'max_aspect': float('nan')}, 'max_aspect'),
        ({'max_words': 0}, 'max_words must be at least 1'),
        ({'min_words': 3, 'max_words': 2}, 'and min_words'),
        ({'min_score': float('nan')}, 'min_score'),
        ({'min_caption_score': 0.5}, 'min_caption_score is a mean log probability, which is at most 0'),
        ({'min_caption_score': float('nan')}, 'min_caption_score is a mean log probability'),
        ({'alphabet': ('latim',)}, r"got 'latim'. Did you mean 'latin'"),
        ({'unique': ('images',)}, r"got 'images'. Did you mean 'image'"),
    ],
)
def test_rules_that_make_no_sense(settings, message):
    with pytest.raises(InputError, match=message):
        FilterRules(**settings)


# image, caption; several shards with copies of each other's samples
CONTENT = [
    [(0, 'a dog'), (1, 'a cat'), (0, 'a third')],
    [(2, 'A  Dog'), (3, 'a bird'), (None, 'no image')],
    [(3, 'other words'), (1, 'a fish'), (4, ''), (5, 'x')],
    [(6, 'a fish')],
]


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / 'raw'
    folder.mkdir()
    for number, samples in enumerate(CONTENT):
        members = []
        for at, (image, caption) in enumerate(samples):
            key = f'{number}{at:03}'
            members += [] if image is None else [(f'{key}.png', photo(image))]
            members += [(f'{key}.txt', caption.encode()), (f'{key}.json', b'{}')]
        (folder / f'{number}.tar').write_bytes(pack(members))
    return folder


RULES = FilterRules(min_words=2, unique=('image', 'caption'))
KEPT = {'0.tar': ['0000', '0001'], '1.tar': ['1001'], '2.tar': [], '3.tar': ['3000']}


def keys(folder):
    found = {}
    for path in sorted(folder.glob('*.tar')):
        with tarfile.open(path) as tar:
            found[path.name] = sorted({name.partition('.')[0] for name in tar.getnames()})
    return found


def files(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix in ('.tar', '.json', '.jsonl')
    }


def test_kept_samples_and_the_report(shards, tmp_path):
    """A copy of a dropped sample is kept: 'a fish' of shard 3, whose first is a copy of an image."""
    report = filter_shards(shards, tmp_path / 'out', RULES)
    assert keys(tmp_path / 'out') == KEPT
    assert (report.samples, report.kept) == (11, 4)
    assert report.dropped == {
        'duplicate caption': 1,
        'duplicate image': 3,
        'no caption': 1,
        'no image': 1,
        'short caption': 1,
    }
    lines = [json.loads(line) for line in (tmp_path / 'out' / 'dropped.jsonl').read_text().splitlines()]
    assert {'sample': '2.tar/2003', 'reason': 'short caption'} in lines
    with tarfile.open(tmp_path / 'out' / '0.tar') as tar:
        assert tar.getnames() == [
            f'000{n}.{kind}' for n in '01' for kind in ('png', 'txt', 'json', 'filter.json')
        ]
        assert json.load(tar.extractfile('0001.filter.json')) == {'source': '0.tar/0001'}


@pytest.mark.parametrize('order', [('1/2', '2/2'), ('3/4', '2/4', '4/4', '1/4')])
def test_parts_give_the_same_bytes(shards, tmp_path, order):
    filter_shards(shards, tmp_path / 'whole', RULES)
    found = [filter_shards(shards, tmp_path / 'parts', RULES, part=Part.parse(text)) for text in order]
    assert found[:-1] == [None] * (len(order) - 1)
    assert found[-1].kept == 4
    assert files(tmp_path / 'parts') == files(tmp_path / 'whole')
    assert filter_shards(shards, tmp_path / 'parts', RULES, part=Part.parse(order[0])) == found[-1]


@pytest.mark.parametrize('stop', [1, 2, 3])
@pytest.mark.parametrize('parts', [1, 2])
def test_an_interrupted_job_goes_on(shards, tmp_path, monkeypatch, stop, parts):
    """In a shard, or in the merge."""
    filter_shards(shards, tmp_path / 'whole', RULES)
    calls, real = [], filtering.copy_shard

    def copy(*arguments):
        calls.append(arguments)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return real(*arguments)

    def run():
        for number in range(1, parts + 1):
            report = filter_shards(shards, tmp_path / 'out', RULES, part=Part(number, parts))
        return report

    monkeypatch.setattr(filtering, 'copy_shard', lambda *a, all_samples: copy(*a, all_samples))
    with pytest.raises(KeyboardInterrupt):
        run()
    assert run().kept == 4
    assert files(tmp_path / 'out') == files(tmp_path / 'whole')


def test_a_second_filter_keeps_the_source(shards, tmp_path):
    filter_shards(shards, tmp_path / 'first', RULES)
    (tmp_path / 'first' / '1.tar').rename(tmp_path / 'renamed.tar')
    filter_shards(tmp_path / 'renamed.tar', tmp_path / 'second', FilterRules(min_size=2))
    with tarfile.open(tmp_path / 'second' / 'renamed.tar') as tar:
        assert json.load(tar.extractfile('1001.filter.json')) == {'source': '1.tar/1001'}
        assert len(tar.getnames()) == len(set(tar.getnames()))


@pytest.mark.parametrize(
    ('before', 'rules', 'part', 'message'),
    [
        (None, FilterRules(), None, 'no rules to filter by'),
        (None, FilterRules(min_caption_score=-0.5), None, r"name them too, such as captions='txt, synthetic"),
        (None, FilterRules(min_score=0.2), None, r'min_score needs a model that scores the pairs \(--by\)'),
        (None, RULES, '1/9', '4 shards cannot be divided into 9 parts'),
        (RULES, FilterRules(min_size=3), None, 'was started with another '),
        (RULES, RULES, '1/2', 'was started as 1 part, not 2: leave out --part'),
    ],
)
def test_refusals(shards, tmp_path, before, rules, part, message):
    if before:
        filter_shards(shards, tmp_path / 'out', before)
    with pytest.raises(InputError, match=message):
        filter_shards(shards, tmp_path / 'out', rules, part=Part.parse(part))


def test_the_source_folder_is_refused(shards):
    with pytest.raises(InputError, match='would overwrite the source'):
        filter_shards(shards, shards, RULES)
