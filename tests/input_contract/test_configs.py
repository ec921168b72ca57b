"""The tables below "Configs" of docs/input_contract.md."""

import json

from torch.optim import SGD

from clipdense.config import load_config

SECTION = 'Configs'


def _read(folder, text, name='own.yaml', safe=False):
    (folder / name).write_text(text)
    return load_config(folder / name, safe=safe)


def _written(folder, text):
    (folder / 'own.py').write_text(text)
    return folder / 'own.py'


def _is(cfg, **expected):
    assert {name: cfg[name] for name in expected} == expected


def _bases(folder):
    (folder / 'first.json').write_text(json.dumps({'a': {'x': 1, 'y': 2}}))
    cfg = _read(folder, '_base_: [first.json, contrastive/clip_scenes]\na: {x: 3}')
    assert cfg.a == {'x': 3, 'y': 2}
    assert cfg.model == load_config('contrastive/clip_scenes').model


def _python_base(folder):
    (folder / 'base.py').write_text('a = 1')
    _read(folder, '_base_: base.py')


def _option(*options):
    return lambda folder: load_config('contrastive/clip_scenes', options)


READ = {
    '`.py` file': lambda folder: _is(_read(folder, 'a = 1 + 1', 'own.py'), a=2),
    '`.py` file with `--safe-config`': lambda folder: _read(folder, 'a = 1', 'own.py', safe=True),
    'name of an included config, also with `--safe-config`': lambda folder: _is(
        load_config('contrastive/clip_scenes', safe=True), default_scope=None
    ),
    '`.yaml`, `.yml` or `.json` file': lambda folder: (
        _is(_read(folder, 'a: {b: [1, text]}'), a={'b': [1, 'text']}),
        _is(_read(folder, '{"a": null}', 'own.json', safe=True), a=None),
    ),
    '`_base_` with YAML or JSON files, or names of included configs': _bases,
    '`_base_` with a `.py` file': _python_base,
    '`1e-3` in YAML': lambda folder: _is(_read(folder, 'lr: 1e-3'), lr=0.001),
    '`type: torch.optim.SGD`, a registered class in full': lambda folder: _is(
        _read(folder, 'o: {type: torch.optim.SGD}'), o={'type': SGD}
    ),
    '`type: DefaultSampler`, a registered name': lambda folder: _is(
        _read(folder, 's: {type: DefaultSampler}'), s={'type': 'DefaultSampler'}
    ),
    '`type: os.system`': lambda folder: _read(folder, 'm: {type: os.system, command: id}'),
    'a tag of YAML such as `!!python/object`': lambda folder: _read(folder, 'm: !!python/object:os.X {}'),
    '`custom_imports` in YAML or JSON': lambda folder: _read(folder, 'custom_imports: {imports: [x]}'),
    'a `.py`, `.yaml` or pickle file as a value': lambda folder: _read(folder, 'm: {ann_file: a.pkl}'),
    'shards from a command, `pipe:...`, in YAML or JSON': lambda folder: _read(folder, 'urls: "pipe:id"'),
    'the same in an option, with `--safe-config`': lambda folder: load_config(
        'contrastive/clip_scenes', ['train_dataloader.dataset.urls=["a.tar", "pipe:id"]'], safe=True
    ),
    '`{{ fileBasename }}`, `{{$HOME:...}}` in YAML or JSON': lambda folder: _read(folder, 'a: "{{$HOME:1}}"'),
    'aliases that write out to more than 100,000 entries': lambda folder: _read(
        folder, f'a: &a [{"1," * 999}]\nb: &b [{"*a," * 999}]'
    ),
    'more than 50 levels': lambda folder: _read(folder, f'a: {"[" * 60}{"]" * 60}'),
    'more than 200 kB of YAML, or 1 MB otherwise': lambda folder: _read(folder, f'a: {"x" * 200_001}'),
    'a key twice': lambda folder: _read(folder, 'a: 1\na: 2'),
    'a date, bytes or a set': lambda folder: _read(folder, 'a: 2020-01-01'),
    'option `-o model.type=os.system`': _option('model.type=os.system'),
    'option `-o name=[a, b]`, texts without quotes': _option('train_dataloader.dataset.urls=[a.tar, b.tar]'),
    'option without `=`': _option('model.micro_batch'),
    '`-o a.b=1 -o a.b=2`': _option('model.micro_batch=1', 'model.micro_batch=2'),
    "option of an entry that others name as `'{{data}}'`": lambda folder: _is(
        load_config(_written(folder, "data = 1\na = dict(b='{{data}}')"), ['data=2']), a={'b': 2}
    ),
    'option of a value that only the text of the config uses': lambda folder: load_config(
        'lseg/lseg_camvid', ['text_root=x'], {'': ['model']}
    ),
    'option of an entry that does not exist': _option('modell.micro_batch=3'),
}


def test_row(row, check):
    check(row, READ)
