"""Traces of some steps."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from mmengine.config import Config

from clipdense.engine import ProfileHook
from clipdense.engine.launch import train
from clipdense.utils.errors import InputError


def run(make_config, **settings):
    own = {name: settings.pop(name) for name in ('resume', 'overwrite') if name in settings}
    return train(Config(make_config(**settings)), log='none', profile=True, **own)


def traces(runner) -> list[str]:
    return sorted(path.name for path in (Path(runner.work_dir) / 'profile').iterdir())


def test_a_trace_of_three_steps(make_config):
    runner = run(make_config)
    assert traces(runner) == ['steps_3_to_5_rank_0.json.gz']
    path = Path(runner.work_dir) / 'profile' / 'steps_3_to_5_rank_0.json.gz'
    names = [str(one.get('name')) for one in json.loads(gzip.decompress(path.read_bytes()))['traceEvents']]
    assert sum('Optimizer.step' in name for name in names) >= 3
    assert any('linear' in name or 'addmm' in name for name in names)


def test_a_used_folder(make_config):
    """A resumed run adds its trace; --overwrite removes the old one."""
    run(make_config)
    runner = run(make_config, steps=10, resume=True)
    assert traces(runner) == ['steps_3_to_5_rank_0.json.gz', 'steps_9_to_10_rank_0.json.gz']
    assert traces(run(make_config, overwrite=True)) == ['steps_3_to_5_rank_0.json.gz']


def test_a_short_run_has_none(make_config, caplog):
    runner = run(make_config, steps=2)
    assert traces(runner) == []
    assert (
        'no profile: the run has 2 steps, and the first 2 are not recorded'
        in Path(next(Path(runner.work_dir).rglob('*.log'))).read_text()
    )


def test_hooks_of_the_config_stay(make_config):
    own = {'type': ProfileHook, 'skip': 0, 'steps': 1}
    for hooks in ([own], {'mine': own}):
        runner = run(make_config, custom_hooks=hooks, overwrite=True)
        assert traces(runner) == ['steps_1_to_1_rank_0.json.gz', 'steps_3_to_5_rank_0.json.gz']


def test_a_folder_that_cannot_be_made(make_config):
    work_dir = Path(make_config()['work_dir'])
    work_dir.mkdir()
    (work_dir / 'profile').write_text('')
    with pytest.raises(InputError, match=r'cannot make the folder .*profile'):
        run(make_config)


@pytest.mark.parametrize('settings', [{'skip': -1}, {'steps': 0}])
def test_profiles_that_make_no_sense(settings):
    with pytest.raises(InputError, match='ProfileHook needs skip >= 0 and steps >= 1'):
        ProfileHook(**settings)
