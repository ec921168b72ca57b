"""The study of CapFilt: wrong captions at known rates, measures of the filter, order of runs, tables."""

from __future__ import annotations

import io
import json
import random
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / 'tools'))

import capfilt_scenes as tool

from clipdense.data.scenes import Scenes, write_scenes

CAPTION = 'a photo of a red solid star and a blue checked circle'


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as archive:
        for key, members in samples.items():
            for ending, content in members.items():
                data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                entry = tarfile.TarInfo(f'{key}.{ending}')
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))


def test_one_attribute_is_wrong():
    for seed in range(20):
        wrong = tool.wrong_attribute(CAPTION, random.Random(seed))
        changed = [(a, b) for a, b in zip(CAPTION.split(), wrong.split(), strict=True) if a != b]
        assert len(changed) == 1
        kind = next(words for words in (tool.COLORS, tool.TEXTURES, tool.SHAPES) if changed[0][0] in words)
        assert changed[0][1] in kind


def test_captions_are_wrong_at_known_rates():
    captions = [
        Scenes().caption(index, [index % 48], [[0, 0, 9, 9]], 'plain', 'train') for index in range(2000)
    ]
    found = tool.corrupted(captions, 'seed')
    assert tool.corrupted(captions, 'seed') == found != tool.corrupted(captions, 'other')
    counts = Counter(kind for _, kind in found)
    for kind, rate in tool.RATES.items():
        assert counts[kind] / 2000 == pytest.approx(rate, abs=0.03)
    for caption, (text, kind) in zip(captions, found, strict=True):
        assert (text == caption) or kind != 'right'
        assert (text in tool.GENERIC) == (kind == 'generic')


@pytest.mark.parametrize(
    ('caption', 'right'),
    [
        (CAPTION, True),
        ('a blue checked circle', True),
        ('a red solid star and a red solid circle', False),
        ('a picture', False),
    ],
)
def test_what_is_in_the_image(caption, right):
    assert tool.says_what_is_there(caption, ['red solid star', 'blue checked circle']) == right


def test_shards_with_wrong_captions(tmp_path):
    write_scenes(tmp_path / 'scenes', num_train=12, num_val=1)
    source = tmp_path / 'scenes/shards/train'
    tool.write_web(source, tmp_path / 'web', 0)
    before = {one['']: one for one in tool.samples(next(source.glob('*.tar')))}
    after = list(tool.samples(tmp_path / 'web/000000.tar'))
    assert len(after) == len(before) == 12
    for sample in after:
        truth = json.loads(sample['truth.json'])
        assert truth['caption'] == before[sample['']]['txt'].decode().strip()
        assert sample['jpg'] == before[sample['']]['jpg']
        assert (sample['txt'].decode() == truth['caption']) or truth['kind'] != 'right'


def test_measures_of_the_filter(tmp_path):
    """Two right captions, of which one is dropped, and three wrong ones, of which two are dropped."""
    kinds = {'a': 'right', 'b': 'right', 'c': 'swapped', 'd': 'swapped', 'e': 'attribute'}
    texts = {
        'a': 'a red solid star',
        'b': 'a red solid star',
        'c': 'a blue solid star',
        'd': '',
        'e': 'a star',
    }
    captioned = {
        key: {
            'truth.json': {'kind': kind, 'names': ['red solid star'], 'caption': 'x'},
            'synthetic.json': {'caption': texts[key]},
        }
        for key, kind in kinds.items()
    }
    kept = {'a': ('web', 'synthetic'), 'c': ('web',), 'e': ('synthetic',)}
    filtered = {
        key: {
            'filter.json': {
                'pairs': [{'source': source, 'kept': source in kept[key]} for source in ('web', 'synthetic')]
            }
        }
        for key in kept
    }
    write(tmp_path / 'captioned/0.tar', captioned)
    write(tmp_path / 'filtered/0.tar', filtered)
    found = tool.filter_quality(tmp_path)
    assert found['precision'] == pytest.approx(2 / 3)
    assert found['recall'] == pytest.approx(2 / 3)
    assert (found['recall/swapped'], found['recall/attribute']) == (0.5, 1.0)
    assert found['kept/right'] == 0.5
    assert (found['web/right before'], found['web/right after']) == (0.4, 0.5)
    assert (found['synthetic/right before'], found['synthetic/right after']) == (0.4, 0.5)
    assert found['synthetic/kept'] == 0.4


@pytest.mark.parametrize(
    ('members', 'has'),
    [
        ('txt', True),
        ('a.json:web', False),
        ('a.json:no', False),
        (['a.json:web', 'txt'], True),
        ('a.json:x', True),
    ],
)
def test_samples_with_a_caption(members, has):
    assert tool.has_caption({'txt': b'a star', 'a.json': b'{"web": [], "x": ["a"]}'}, members) == has


def test_finished_runs_are_not_repeated(tmp_path, capsys, monkeypatch):
    done = []

    def run(self, name):
        metrics = {metric.format(split): 0.25 for metric in tool.SCORES.values() for split in tool.SPLITS}
        result = {'cpu_seconds': 10.0, 'images': 100, **metrics} if name in tool.CAPTIONS else {'right': 0.5}
        path = self.folder / name / 'result.json'
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(result))
        done.append((name, self.seed, self.clip))
        return result

    monkeypatch.setattr(tool.Study, 'run', run)
    arguments = [str(tmp_path), '--steps', '5', '6', '7', '--seeds', '3', '4']
    tool.main([*arguments, '--only', 'blip', 'noisy'])
    assert done == [('blip', 3, 7), ('noisy', 3, 7), ('blip', 4, 7), ('noisy', 4, 7)]
    tool.main([*arguments, '--only', 'blip', 'both'])
    assert done[4:] == [('both', 3, 7), ('both', 4, 7)]
    tool.main([*arguments, '--table'])
    assert len(done) == 6
    tool.main([*arguments[:-2], '5', '--captions-of', '3'])
    assert [name for name, *_ in done[6:]] == list(tool.CAPTIONS)
    printed = capsys.readouterr().out
    assert '| noisy | 2 | 100 | 10 | 0.250 ± 0.000 / 0.250 ± 0.000' in printed
    assert '| blip | right | 0.500 ± 0.000 |' in printed


def test_what_a_run_needs_comes_before_it():
    order = list(tool.RUNS)
    assert order.index('blip') < order.index('captioner') < order.index('captions') < order.index('filter')
    assert order.index('matcher') < order.index('filter') < order.index('filtered')
