"""Values of a config that stand once and that other entries refer to."""

from __future__ import annotations

import pytest

from clipdense.config import load_config
from clipdense.utils.errors import InputError

TEXT = """
data = 'images'
shots = 16
folder = 'own'
train = dict(dataset=dict(root='{{data}}', shots='{{ shots }}', name='{{data}}/train'))
tests = [dict(root='{{data}}'), dict(root='{{ data }}')]
other = dict(root=folder + '/x')
"""
SETTINGS = {'': {'train', 'work_dir'}}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'own.py'
    path.write_text(TEXT)
    return path


CASES = {
    'nothing': ([], 'images', 16),
    'text': (['data=mine'], 'mine', 16),
    'two': (['data=mine', 'shots=None'], 'mine', None),
    'a part': (['data={"root": "y"}'], {'root': 'y'}, 16),
    'an entry that refers to it': (['data=mine', 'train.dataset.shots=2'], 'mine', 2),
}


@pytest.mark.parametrize(('options', 'data', 'shots'), CASES.values(), ids=CASES)
@pytest.mark.parametrize('twice', [False, True], ids=['at once', 'of a config that was read'])
def test_options_reach_every_entry(config, options, data, shots, twice):
    cfg = load_config(load_config(config), options) if twice else load_config(config, options)
    assert (cfg.data, cfg.train.dataset.root, [one.root for one in cfg.tests]) == (data, data, [data] * 2)
    assert cfg.train.dataset.shots == shots
    assert cfg.train.dataset.name == '{{data}}/train'  # a whole value only


def test_a_config_that_builds_on_another_changes_its_values(config):
    own = config.with_name('child.yaml')
    (config.with_name('base.json')).write_text('{"a": {"b": 1}}')
    own.write_text('_base_: base.json\na: {c: 2}')
    assert load_config(own).a == {'b': 1, 'c': 2}
    child = config.with_name('child.py')
    child.write_text(
        "from mmengine.config import read_base\nwith read_base():\n    from .own import *\ndata = 'b'\n"
    )
    assert load_config(child).tests[1].root == 'b'
    assert load_config(child, ['data=c']).tests[1].root == 'c'


def test_entries_changed_in_python_stay(config):
    cfg = load_config(config)
    cfg.train.dataset.root = 'own'
    cfg.tests = []
    again = load_config(cfg, ['data=mine'])
    assert (again.train.dataset.root, again.tests) == ('own', [])


REFUSED = {
    'a value that only the text uses': (
        ['folder=x'],
        "'folder' only names a value within the config.*set other.root",
    ),
    'no such entry': (
        {'train.dataset.root': '{{dta}}'},
        "train.dataset.root: .*no entry 'dta'. Did you mean 'data'",
    ),
    'a reference to a reference': ({'shots': '{{data}}', 'data': '{{shots}}'}, 'is a reference itself'),
}


@pytest.mark.parametrize(('options', 'message'), REFUSED.values(), ids=REFUSED)
def test_refuses(config, options, message):
    with pytest.raises(InputError, match=message):
        load_config(config, options, SETTINGS)
