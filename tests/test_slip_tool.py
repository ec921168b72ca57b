"""The comparison of SLIP and CLIP: its order of runs, its table, and one run in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / 'tools'))

import slip_scenes

from clipdense.config import load_config


def result(value, seconds=10.0, steps=4):
    metrics = {
        metric.format(split): value for metric in slip_scenes.SCORES.values() for split in slip_scenes.SPLITS
    }
    return {'steps': steps, 'cpu_seconds': seconds, **metrics}


def test_runs_whose_length_depends_on_others_come_after_them():
    found = [(name, seed) for name, seed, _ in slip_scenes.runs_of([0, 1])]
    assert found[:3] == [('clip', 0), ('slip', 0), ('clip_long', 0)]
    assert found.index(('serial_1', 0)) < found.index(('serial_2', 0))
    assert ('serial_1', 1) not in found
    assert len(set(found)) == len(found)


@pytest.mark.parametrize('run', [run for *_, run in slip_scenes.runs_of([0])], ids=lambda run: run.config)
def test_configs_and_options_exist(run):
    options = {
        key: value.format(out='runs') if isinstance(value, str) else value
        for key, value in run.options.items()
    }
    assert load_config(f'slip/{run.config}', options).train_cfg.max_steps > 0


def test_the_table():
    results = {('clip', 0): result(0.5), ('clip', 1): result(0.7), ('slip', 0): result(0.25, 30.0)}
    lines = slip_scenes.table(results).splitlines()
    assert lines[2].startswith('| clip | 2 | 4 | 10 | 0.600 ± 0.141 / 0.600 ± 0.141')
    assert lines[3].startswith('| slip | 1 | 4 | 30 | 0.250 / 0.250 / 0.250 |')
    assert slip_scenes.ratio(results, 0, ('slip', 'clip')) == 3.0
    assert slip_scenes.ratio(results, 0, None) == 1.0


def test_finished_runs_are_not_repeated(tmp_path, capsys, monkeypatch):
    steps = []

    def perform(out, name, seed, run, count, data):
        folder = out / name / str(seed)
        folder.mkdir(parents=True)
        (folder / 'result.json').write_text(json.dumps(result(0.5, 30.0 if name == 'slip' else 10.0)))
        steps.append((name, count))
        return json.loads((folder / 'result.json').read_text())

    monkeypatch.setattr(slip_scenes, 'perform', perform)
    arguments = [str(tmp_path), '--steps', '6', '--seeds', '3']
    slip_scenes.main([*arguments, '--only', 'clip', 'slip'])
    slip_scenes.main([*arguments, '--only', 'clip', 'slip', 'clip_long', 'slip_short'])
    assert steps == [('clip', 6), ('slip', 6), ('clip_long', 18), ('slip_short', 2)]
    assert '| clip_long | 1 |' in capsys.readouterr().out
    slip_scenes.main([*arguments, '--table'])
    assert len(steps) == 4
