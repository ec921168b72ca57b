"""The benchmark harness on trivial work; no test here measures time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / 'tools'))

import benchmark
from benchmarks import BENCHMARKS, harness
from benchmarks.clip_pair import captions, check_equal
from benchmarks.harness import Options, Row, Times, interleave, matrix_rate, rate_rows

KEYS = {'name', 'ours', 'peer', 'ratio', 'unit', 'machine', 'date', 'options', 'rows', 'notes'}


def test_both_sides_run_in_turn_and_warm_up_does_not_count():
    order = []
    ours, peer = interleave(
        lambda: order.append('A'), lambda: order.append('B'), Options(repeats=2), warm_up=1
    )
    assert ''.join(order) == 'ABABAB'
    assert [len(side) for side in (ours.wall, ours.cpu, peer.wall, peer.cpu)] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ('ours', 'peer', 'more_is_better', 'ratio'),
    [(2.0, 3.0, False, 1.5), (3.0, 2.0, False, 2 / 3), (3.0, 2.0, True, 1.5)],
    ids=['fewer seconds', 'more seconds', 'higher rate'],
)
def test_ratio_is_above_one_where_ours_is_ahead(ours, peer, more_is_better, ratio):
    assert Row('x', ours, peer, 's', more_is_better).ratio == pytest.approx(ratio)


def test_rates_come_from_medians():
    times = Times(wall=[1.0, 2.0, 9.0], cpu=[1.0, 4.0, 9.0]), Times(wall=[4.0, 4.0, 4.0], cpu=[8.0, 8.0, 8.0])
    wall, cpu = rate_rows('x', 8, 'img', times, 'cpu')
    assert (wall.ours, wall.peer, wall.ratio) == (4.0, 2.0, 2.0)
    assert (cpu.ours, cpu.peer, cpu.ratio) == (2.0, 1.0, 2.0)
    assert len(rate_rows('x', 8, 'img', times, 'cuda')) == 1, 'a GPU has no CPU seconds to compare'


def test_the_last_line_is_the_result(monkeypatch, capsys):
    def trivial(options):
        """Nothing, twice."""
        return [Row('seconds', 1.0, 2.0, 's'), Row('rate', 1.0, 4.0, '1/s', True)], {
            'repeats': options.repeats
        }

    monkeypatch.setitem(BENCHMARKS, 'trivial', trivial)
    monkeypatch.setattr(benchmark, 'neighbors', dict)
    benchmark.main(['trivial', '--repeats', '7'])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found.keys() == KEYS
    assert [found[key] for key in ('name', 'ours', 'peer', 'ratio', 'unit')] == [
        'trivial',
        1.0,
        2.0,
        2.0,
        's',
    ]
    assert found['rows'][1] == {'label': 'rate', 'ours': 1.0, 'peer': 4.0, 'ratio': 0.25, 'unit': '1/s'}
    assert found['notes'] == {'repeats': 7}
    assert found['options']['repeats'] == 7
    assert {'processor', 'cores', 'threads', 'torch'} <= found['machine'].keys()
    assert any(line.startswith('rate ') for line in lines[:-1])


@pytest.mark.parametrize(('idle', 'told'), [(195, None), (50, '75% of the cores')], ids=['idle', 'busy'])
def test_busy_neighbors_are_told(monkeypatch, idle, told):
    ticks = iter([(1000, 400), (1200, 400 + idle)])
    monkeypatch.setattr(harness, '_ticks', lambda: next(ticks))
    found = harness.neighbors(wait=0)
    assert found['busy neighbors'].startswith(told) if told else found == {}


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(['clip_txt'])
    assert stop.value.code == 2
    assert 'clip_text' in capsys.readouterr().err


@pytest.mark.parametrize('peer', [1.2, float('nan')], ids=['another result', 'no number'])
def test_programs_that_compute_different_things_are_not_compared(peer):
    with pytest.raises(SystemExit, match='differ'):
        check_equal('outputs', torch.tensor([1.0, 1.0]), torch.tensor([1.0, peer]), 0.1)


def test_small_differences_are_told():
    assert check_equal('outputs', torch.tensor([1.0]), torch.tensor([1.5]), 1.0) == 0.5


def test_captions_have_natural_length():
    lengths = [len(caption.split()) for caption in captions(22)]
    assert sorted(lengths) == sorted([*range(10, 21)] * 2)


def test_matrix_rate_is_a_rate():
    assert matrix_rate(Options(repeats=1), side=256) > 0
