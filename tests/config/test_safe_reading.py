"""YAML and JSON configs, and options, never run code: each would leave a marker file."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
from torch.optim import SGD

from clipdense.cli import main
from clipdense.config import load_config
from clipdense.engine import ProgressHook
from clipdense.engine.launch import test as evaluate
from clipdense.engine.launch import train
from clipdense.inference.detector import Detector
from clipdense.inference.load import load_trained
from clipdense.inference.segmenter import Segmenter
from clipdense.utils.errors import InputError

RUNS_CODE = {
    'a tag that calls': ("x: !!python/object/apply:os.system ['{command}']", 'only plain data'),
    'a tag with a name': ('x: !!python/name:os.system', 'only plain data'),
    'a tag with a module': ('x: !!python/module:evil', 'only plain data'),
    'a type': ("model: {{type: os.system, command: '{command}'}}", "'os.system' is not registered"),
    'a type in a list': (
        "model: {{type: CLIP, parts: [{{type: subprocess.run, args: ['touch', '{marker}']}}]}}",
        "parts.0.type: 'subprocess.run' is not registered",
    ),
    'a builtin': ('model: {{type: builtins.eval, source: x}}', 'is not registered'),
    'a module of the folder': ('model: {{type: evil}}', "no class 'evil' is registered"),
    'a function of ours': ('model: {{type: clipdense.config.load_config}}', 'is not registered'),
    'a function of torch': ('model: {{type: torch.hub.load}}', 'is not registered'),
    'through torch.nn': ('model: {{type: torch.nn.init.torch.load}}', 'is not registered'),
    'a function of mmengine': ('model: {{type: mmengine.fileio.load}}', 'is not registered'),
    'evaluated text': (
        't: {{nms: {{type: \'__import__("os").system("{command}")\'}}}}',
        'is not registered',
    ),
    'a class that evaluates text': ('h: {{type: RFSearchHook}}', 'runs text as code'),
    'a constructor': ('optim_wrapper: {{constructor: os.system}}', 'optim_wrapper.constructor'),
    'custom imports': ('custom_imports: {{imports: [evil]}}', 'imports code'),
    'a scope': ('model: {{type: CLIP, _scope_: evil}}', 'model._scope_ must be one of'),
    'the default scope': ('default_scope: evil', 'default_scope must be one of'),
    'a .py base': ('_base_: evil.py', 'a .py file is code'),
    'a base with a type': ('_base_: base.yaml', "'os.system' is not registered"),
    'a config of a part': ('m: {{type: CLIP, teacher_config: evil.py}}', 'would be read as code'),
    'a pickle': ('m: {{type: CLIP, ann_file: data.pkl}}', 'would be read as code'),
    'a command for shards': ("d: {{urls: ['pipe:{command}']}}", 'runs a command'),
    'a command by braces': ("d: {{urls: '{{{{p,q}}}}ipe:{command}'}}", 'runs a command'),
}
BOMB = 'a0: &a0 [x, x]\n' + ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]\n' for i in range(1, 12))
MALFORMED = {
    'alias bomb': (BOMB, 'entries, with its aliases written out'),
    'alias of itself': ('a: &a [*a]', 'contains itself'),
    'deep': (f'a: {"[" * 3000}{"]" * 3000}', 'nested too deeply'),
    'deep mappings': (f'a: {"{b: " * 60}1{"}" * 60}', 'nested too deeply'),
    'large': (f'a: [{"1," * 200_000}]', 'too large'),
    'key twice': ('lr: 1\nlr: 2', "line 2: the key 'lr' is there twice"),
    'key that is no text': ('train_cfg: {on: 1}', 'train_cfg has the key True'),
    'date': ('d: 2020-01-01', 'd is a date'),
    'bytes': ('x: !!binary aGVsbG8=', 'x is a bytes'),
    'NaN': ('lr: .nan', 'lr is NaN'),
    'list': ('- a', 'is a list; a config is a mapping'),
    'empty': ('', 'is empty; a config is a mapping'),
    'syntax': ('a: [', 'line 1'),
    'environment variable': ("x: '{{$HOME:1}}'", 'is not substituted'),
    'file variable': ("x: '{{ fileBasename }}'", 'is not substituted'),
    'base that is itself': ('_base_: own.yaml', '_base_ names the file itself'),
    'base that is a number': ('_base_: 3', '_base_ must be a file name'),
    'base that is absent': ('_base_: absent.yaml', 'absent.yaml'),
}


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that exists once code of a config has run; checked at the end."""
    path = tmp_path / 'MARKER'
    (tmp_path / 'evil.py').write_text(f'import os\n\nos.system("touch {path}")\n')
    (tmp_path / 'base.yaml').write_text(f"model: {{type: os.system, command: 'touch {path}'}}\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    assert not path.exists(), 'code of the config has run'


def written(marker, text, suffix='.yaml'):
    path = marker.with_name(f'own{suffix}')
    path.write_text(text)
    return path


@pytest.mark.parametrize(('text', 'message'), RUNS_CODE.values(), ids=RUNS_CODE)
def test_a_yaml_config_runs_no_code(marker, text, message):
    path = written(marker, text.format(command=f'touch {marker}', marker=marker))
    with pytest.raises(InputError, match=message) as error:
        load_config(path)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('text', 'message'), MALFORMED.values(), ids=MALFORMED)
def test_malformed_yaml(marker, text, message):
    start = time.process_time()
    with pytest.raises(InputError, match=message):
        load_config(written(marker, text))
    assert time.process_time() - start < 10


OPTIONS = {
    'type': 'model.type=os.system',
    'part': 'model={{"type": "os.system", "command": "{command}"}}',
    'nested': 'model.clip={{"type": "evil"}}',
    'constructor': 'optim_wrapper={{"constructor": "os.system"}}',
    'imports': 'custom_imports={{"imports": ["evil"]}}',
    'scope': 'default_scope=evil',
}


@pytest.mark.parametrize('option', OPTIONS.values(), ids=OPTIONS)
def test_an_option_runs_no_code(marker, option):
    with pytest.raises(InputError, match=r'option \S+'):
        load_config('contrastive/clip_scenes', [option.format(command=f'touch {marker}')])


def entry_points(config, folder):
    """Everything in Python that reads a config."""
    yield lambda: train(config, folder / 'run')
    yield lambda: evaluate(config, 'weights.pth', folder / 'run')
    yield lambda: load_trained(config, 'weights.pth')
    yield lambda: Segmenter.from_config(config, 'weights.pth')
    yield lambda: Detector.from_config(config, 'weights.pth')


COMMANDS = {
    'train': ['train', '{config}', '--work-dir', '{folder}/run'],
    'test': ['test', '{config}', 'weights.pth', '--work-dir', '{folder}/run'],
    'segment': ['segment', '{image}', '-c', 'cat, dog', '-w', 'weights.pth', '--config', '{config}'],
    'detect': ['detect', '{image}', '-c', 'cat, dog', '-w', 'weights.pth', '--config', '{config}'],
    'embed regions': ['embed', 'regions', '{config}', 'weights.pth', '{folder}/regions'],
}
FILES = {
    'yaml tag': ('.yaml', RUNS_CODE['a tag that calls'][0]),
    'yaml type': ('.yml', RUNS_CODE['a type'][0]),
    'json type': ('.json', '{{"model": {{"type": "os.system", "command": "{command}"}}}}'),
    'yaml base': ('.yaml', '_base_: base.yaml'),
    'json base in Python': ('.json', '{{"_base_": "evil.py"}}'),
}


@pytest.mark.parametrize(('suffix', 'text'), FILES.values(), ids=FILES)
def test_no_function_runs_code(marker, suffix, text):
    config = written(marker, text.format(command=f'touch {marker}'), suffix)
    for call in entry_points(config, marker.parent):
        with pytest.raises(InputError):
            call()


@pytest.mark.parametrize('arguments', COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(('suffix', 'text'), FILES.values(), ids=FILES)
def test_no_command_runs_code(marker, arguments, suffix, text, capsys):
    config = written(marker, text.format(command=f'touch {marker}'), suffix)
    assert exit_code(marker, arguments, config) == 2
    assert 'unexpected' not in capsys.readouterr().err


@pytest.mark.parametrize('arguments', COMMANDS.values(), ids=COMMANDS)
def test_safe_config_refuses_python(marker, arguments, capsys):
    """Reading a .py config runs it; with --safe-config it is not read."""
    assert exit_code(marker, [*arguments, '--safe-config'], marker.with_name('evil.py')) == 2
    assert 'is a .py config, which is code' in capsys.readouterr().err


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_tools_refuse_python_too(marker, tool):
    script = f'{__file__.partition("tests")[0]}tools/{tool}'
    weights = ['weights.pth'] if tool == 'test.py' else []
    command = [sys.executable, script, str(marker.with_name('evil.py')), *weights, '--safe-config']
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert 'is a .py config, which is code' in result.stderr


def exit_code(marker, arguments, config):
    image = marker.with_name('image.png')
    if not image.exists():
        from PIL import Image

        Image.new('RGB', (8, 8)).save(image)
    with pytest.raises(SystemExit) as left:
        main([one.format(config=config, folder=marker.parent, image=image) for one in arguments])
    return left.value.code


def test_safe_reading_in_python(marker):
    with pytest.raises(InputError, match=r'--safe-config \(safe=True\) refuses'):
        load_config(marker.with_name('evil.py'), safe=True)
    assert repr(load_config('clip_scenes', safe=True)) == repr(load_config('clip_scenes'))


def test_what_yaml_says(marker):
    text = """
        default: &d {lr: 1e-3, eps: 1.0E-8, betas: [0.9, 0.95]}
        optimizer: {type: torch.optim.SGD, <<: *d, momentum: 5}
        model: {type: torch.nn.Linear, in_features: 3, out_features: 2}
        named: {type: DefaultSampler, norm: {type: SyncBN}, nms: {type: nms}}
        none: null
    """
    cfg = load_config(written(marker, text))
    assert cfg.optimizer == {'type': SGD, 'lr': 1e-3, 'eps': 1e-8, 'betas': [0.9, 0.95], 'momentum': 5}
    assert cfg.model.type is torch.nn.Linear
    assert (cfg.named.norm.type, cfg.none) == ('SyncBN', None)


@pytest.mark.parametrize('suffix', ['.json', '.yaml'])
def test_bases(marker, suffix):
    """A file beside it, and an included config by its name; ``_delete_`` replaces a part."""
    written(marker, json.dumps({'train_cfg': {'max_steps': 3, 'val_begin': 2}, 'seed': 1}), '_base.json')
    entries = {
        '_base_': ['contrastive/clip_scenes', 'own_base.json'],
        'train_cfg': {'max_steps': 4},
        'default_hooks': {'logger': {'_delete_': True, 'type': 'ProgressHook'}},
    }
    cfg, ours = load_config(written(marker, json.dumps(entries), suffix)), load_config('clip_scenes')
    assert cfg.train_cfg == {'max_steps': 4, 'val_begin': 2}
    assert cfg.default_hooks.logger == {'type': ProgressHook}
    assert (cfg.model, cfg.seed) == (ours.model, 1)
    assert repr(load_config('clip_scenes')) == repr(ours), 'unchanged'


def test_options_change_a_copy():
    cfg = load_config('contrastive/clip_scenes')
    before = repr(cfg)
    changed = load_config(cfg, ['model.micro_batch=3', 'optim_wrapper.optimizer.lr=1'])
    assert (changed.model.micro_batch, changed.optim_wrapper.optimizer.lr) == (3, 1)
    assert repr(cfg) == before
