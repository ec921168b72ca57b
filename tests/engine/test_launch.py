"""Configs from files, names and options; train and test as the command line calls them."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.dist import get_world_size
from mmengine.utils import get_installed_path
from torch import nn

from clipdense.config import files as config_files
from clipdense.config import load_config, parse_options
from clipdense.config import names as config_names
from clipdense.engine import launch
from clipdense.engine.logs import config_text
from clipdense.utils.errors import CheckpointError, InputError

TOOLS = Path(__file__).parents[2] / 'tools'
TINY = """
from torch.optim import AdamW
from torch import nn

from clipdense.engine import EvaluationHook, TrainLoop, WarmupCosine
from mmengine.model import BaseModel
{extra}
size = 4
model = dict(type=nn.Linear, in_features=size, out_features=2)
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type='Absent'))
train_cfg = dict(type=TrainLoop, max_steps=3)
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=0.1))
param_scheduler = dict(type=WarmupCosine, warmup=1)
transforms = [dict(size=1)]
"""


@pytest.fixture
def tiny_file(tmp_path):
    path = tmp_path / 'tiny_config.py'
    path.write_text(TINY.format(extra=''))
    return path


OPTIONS = {
    'int': ('a.b=3', {'a.b': 3}),
    'float': ('lr=1e-3', {'lr': 1e-3}),
    'list': ('c=[1, "x"]', {'c': [1, 'x']}),
    'word': ('c=hello', {'c': 'hello'}),
    'words': ("c='{00..09}.tar'", {'c': '{00..09}.tar'}),
    'braces': ('c=/data/{00..09}.tar', {'c': '/data/{00..09}.tar'}),
    'true': ('c=true', {'c': True}),
    'None': ('c=None', {'c': None}),
    'equals inside': ('c=a=b', {'c': 'a=b'}),
    'empty': ('c=', {'c': ''}),
}


@pytest.mark.parametrize(('text', 'expected'), OPTIONS.values(), ids=OPTIONS)
def test_parse_options(text, expected):
    assert parse_options([text]) == expected


def test_an_option_is_given_once():
    assert parse_options(['a=1', 'a = 1']) == {'a': 1}
    for other in ('a=2', 'a=1.0', 'a=True'):
        with pytest.raises(InputError, match="option 'a' is given twice, as 1 and as"):
            parse_options(['a=1', other])


@pytest.mark.parametrize('text', ['lr', '=3', ' =3'])
def test_parse_options_refuses(text):
    with pytest.raises(InputError, match=r'name=value'):
        parse_options([text])


@pytest.mark.parametrize(
    ('option', 'read'),
    [
        ('optim_wrapper.optimizer.lr=0.5', lambda cfg: cfg.optim_wrapper.optimizer.lr),
        ('optim_wrapper.optimizer.eps=0.5', lambda cfg: cfg.optim_wrapper.optimizer.eps),  # taken by AdamW
        ('optim_wrapper.max_skips=0.5', lambda cfg: cfg.optim_wrapper.max_skips),
        ('train_dataloader.prefetch_factor=0.5', lambda cfg: cfg.train_dataloader.prefetch_factor),
        ('train_cfg.val_interval=0.5', lambda cfg: cfg.train_cfg.val_interval),
        ('param_scheduler.final=0.5', lambda cfg: cfg.param_scheduler.final),
        ('load_from=0.5', lambda cfg: cfg.load_from),
        ('env_cfg=0.5', lambda cfg: cfg.env_cfg),
        ('sync_bn=0.5', lambda cfg: cfg.sync_bn),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_options_that_fit(tiny_file, option, read):
    assert read(launch.read_config(tiny_file, [option])) == 0.5


UNFIT = {
    'entry': ('optim_wrapper.optimizer.lrr=1', "unknown entry 'lrr'. Did you mean 'lr'"),
    'parent': ('optim_wraper.optimizer.lr=1', "no entry 'optim_wraper'. Did you mean 'optim_wrapper'"),
    'top': ('load_form=x', "unknown entry 'load_form'. Did you mean 'load_from'"),
    'loader': ('train_dataloader.batchsize=1', "Did you mean 'batch_size'"),
    'list': ('transforms.3.size=1', "no entry 'transforms.3'"),
    'inside a number': ('size.x=1', "unknown entry 'x'"),
}


@pytest.mark.parametrize(('option', 'message'), UNFIT.values(), ids=UNFIT)
def test_options_that_do_not_fit(tiny_file, option, message):
    with pytest.raises(InputError, match=message):
        launch.read_config(tiny_file, [option])


MISTAKES = {
    'syntax': ('x = (', 'line 7'),
    'import': ('from clipdense.engine import Absent', 'Absent'),
    'module': ('import clipdense.absent', 'absent'),
    'name': ('x = absent + 1', 'absent'),
}


@pytest.mark.parametrize(('extra', 'message'), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_in_a_config(tmp_path, extra, message):
    path = tmp_path / 'bad.py'
    path.write_text(TINY.format(extra=extra))
    with pytest.raises(InputError, match=message) as error:
        load_config(path)
    assert '\n' not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('tiny_confg.py', "Did you mean '.*tiny_config.py'"),
        ('notes.txt', 'not a config'),
        ('contrastive/clip_opnai', "Did you mean 'contrastive/clip_openai'"),
    ],
)
def test_unknown_config(tiny_file, name, message):
    (tiny_file.parent / 'notes.txt').touch()
    path = name if '/' in name else tiny_file.parent / name
    with pytest.raises(InputError, match=message):
        load_config(path)


@pytest.mark.parametrize(
    'name',
    [
        'contrastive/clip_openai',
        'clip_openai',
        'clip_openai.py',
        'configs/contrastive/clip_openai.py',
    ],
)
def test_configs_are_found_by_name(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Path(load_config(name).filename).stem == 'clip_openai'


@pytest.mark.parametrize('layout', ['checkout', 'wheel'])
def test_a_config_of_ones_own_builds_on_ours(layout, monkeypatch, tmp_path):
    """From anywhere; in a wheel, ours lie in the package."""
    ours = load_config('contrastive/clip_scenes')
    if layout == 'wheel':
        shutil.copytree(config_files.HOME / 'configs', tmp_path / 'site' / 'clipdense' / 'configs')
        for module in (config_files, config_names):
            monkeypatch.setattr(module, 'HOME', tmp_path / 'site' / 'clipdense')
        assert load_config('contrastive/clip_scenes').filename.startswith(str(tmp_path))
    base = 'from mmengine.config import read_base\n\nwith read_base():\n    from {} import *\n'
    (tmp_path / 'mine.py').write_text(base.format('clipdense.configs.contrastive.clip_scenes') + 'seed = 3\n')
    (tmp_path / 'mine_too.py').write_text(base.format('.mine') + 'train_cfg = dict(max_steps=2)\n')
    mine = load_config(tmp_path / 'mine_too.py')
    assert (mine.seed, mine.train_cfg) == (3, {'max_steps': 2})
    assert mine.model == ours.model
    assert mmengine_config.get_installed_path is get_installed_path, 'as it was'


def test_config_text_can_be_read_again(tiny_file, tmp_path):
    text = config_text(load_config(tiny_file))
    (tmp_path / 'again.py').write_text(text)
    again = Config.fromfile(tmp_path / 'again.py')
    assert again.optim_wrapper.optimizer.type == 'torch.optim.adamw.AdamW' or 'AdamW' in text
    assert again.train_cfg.max_steps == 3
    assert config_text(again) == text


INCOMPLETE = {
    'no model': ({'model': None}, 'has no entry model'),
    'no data': ({'train_dataloader': None}, 'is not a training config: train_dataloader is missing'),
    'no length': ({'train_cfg': None}, 'train_cfg is missing'),
}


@pytest.mark.parametrize(('entries', 'message'), INCOMPLETE.values(), ids=INCOMPLETE)
def test_incomplete_configs(make_config, entries, message):
    with pytest.raises(InputError, match=message):
        launch.train(Config({**make_config(), **entries}))


INVALID = {
    'negative length': ('train_cfg.max_steps=-5', 'train_cfg.max_steps must be .* at least 1, got -5'),
    'no length': ('train_cfg.max_steps=0', 'train_cfg.max_steps must be .* at least 1, got 0'),
    'a word for a length': ('train_cfg.max_steps=abc', "train_cfg.max_steps must be .*, got 'abc'"),
    'a part of a step': ('train_cfg.max_steps=2.5', 'train_cfg.max_steps must be .*, got 2.5'),
    'no interval': ('train_cfg.val_interval=0', 'train_cfg.val_interval must be .*, got 0'),
    'empty batch': ('train_dataloader.batch_size=0', 'train_dataloader.batch_size must be .*, got 0'),
    'a float for a batch size': (
        'train_dataloader.batch_size=8.0',
        r'batch_size must be an integer, such as 8, got 8\.0',
    ),
    'a word for a batch size': (
        'train_dataloader.batch_size=x',
        "train_dataloader.batch_size must .*, got 'x'",
    ),
    'negative workers': ('train_dataloader.num_workers=-1', 'num_workers must be .* at least 0, got -1'),
    'a word for a rate': (
        'optim_wrapper.optimizer.lr=abc',
        "optim_wrapper.optimizer.lr must be .*, got 'abc'",
    ),
    'negative rate': ('optim_wrapper.optimizer.lr=-1', 'optim_wrapper.optimizer.lr must be .*, got -1'),
    'a word for the decay': ('optim_wrapper.optimizer.weight_decay=x', "weight_decay must be .*, got 'x'"),
}


@pytest.mark.parametrize(('option', 'message'), INVALID.values(), ids=INVALID)
def test_invalid_values_are_refused_before_anything_is_built(tiny_file, tmp_path, option, message):
    """The dataset of this config does not exist."""
    with pytest.raises(InputError, match=message):
        launch.train(tiny_file, tmp_path / 'run', options=[option])
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('name', ['photo.jpg', 'photo.jpg/run'])
def test_a_file_is_not_a_work_dir(tiny_file, tmp_path, name):
    (tmp_path / 'photo.jpg').touch()
    with pytest.raises(InputError, match=r'work_dir: .*photo\.jpg is not a folder; choose'):
        launch.train(tiny_file, tmp_path / name)


def test_train_and_resume(make_config, tmp_path):
    config = Config(make_config())
    first = launch.train(config, tmp_path / 'a', seed=9, options={'train_cfg.max_steps': 3})
    assert (first.iter, first.seed, first.work_dir) == (3, 9, str(tmp_path / 'a'))
    more = launch.train(config, tmp_path / 'a', resume=True, options=['train_cfg.max_steps=5'])
    assert (more.iter, more.seed) == (5, 9), 'the run keeps its seed'
    assert len(more.model.seen) == 2
    from_path = launch.train(config, tmp_path / 'b', resume=tmp_path / 'a' / 'step_3.pth')
    assert len(from_path.model.seen) == 3
    assert get_world_size() == 1


def test_resume_overrides_load_from_only_where_there_is_a_checkpoint(make_config, tmp_path):
    source = launch.train(Config(make_config(steps=1)), tmp_path / 'source')
    weights = tmp_path / 'source' / 'step_1.pth'
    fine_tuning = Config(make_config(steps=2, load_from=str(weights)))
    first = launch.train(fine_tuning, tmp_path / 'new', resume=True)
    assert first.iter == 2
    assert len(first.model.seen) == 2, 'started from weights, at step 0'
    assert source.iter == 1
    again = launch.train(fine_tuning, tmp_path / 'new', resume=True)
    assert len(again.model.seen) == 0


RESUMES = {
    'missing': ({'resume': 'absent.pth'}, InputError, 'the checkpoint .*absent.pth does not exist'),
    'strict': ({'resume': True, 'strict_resume': True}, CheckpointError, 'damaged'),
}


@pytest.mark.parametrize(('arguments', 'kind', 'message'), RESUMES.values(), ids=RESUMES)
def test_resume_refusals(make_config, tmp_path, arguments, kind, message):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'step_5.pth').write_bytes(b'PK rubbish')
    with pytest.raises(kind, match=message):
        launch.train(Config(make_config()), **arguments)


def evaluation(clip):
    return {'answer': 42.0}


def test_test_runs_loop_and_evaluations(make_config, tiny, tmp_path):
    from clipdense.engine import EvaluationHook

    config = Config(
        make_config(
            test_dataloader={'dataset': {'type': tiny.Map, 'size': 4}, 'batch_size': 2},
            test_cfg={},
            test_evaluator={'type': tiny.Metric},
            custom_hooks=[{'type': EvaluationHook, 'evaluations': [evaluation]}],
        )
    )
    launch.train(config, tmp_path / 'run', options={'train_cfg.max_steps': 1})
    weights = tmp_path / 'run' / 'step_1.pth'
    metrics = launch.test(config, weights, tmp_path / 'test')
    assert set(metrics) == {'tiny/size', 'answer'}
    stored = json.loads((tmp_path / 'test' / 'test_metrics.json').read_text())
    assert stored == {'checkpoint': str(weights), **metrics}
    assert launch.test(config, weights, tmp_path / 'test') == metrics, 'dropout is off'


def test_nothing_to_test(make_config, tmp_path):
    with pytest.raises(InputError, match='has no evaluation'):
        launch.test(Config(make_config()), 'weights.pth', tmp_path)


def test_training_free_models_take_weights_as_an_argument(make_config, tiny, tmp_path):
    """What the command line calls weights arrives in the constructor, as text."""
    from clipdense.engine import EvaluationHook

    class Around(tiny.Model):
        weights_argument = 'weights'

        def __init__(self, weights: str) -> None:
            super().__init__()
            self.weights = weights

    evaluation = {'type': EvaluationHook, 'evaluations': [lambda model: {'length': len(model.weights)}]}
    config = Config(
        make_config(model={'type': Around, 'weights': 'of the config'}, custom_hooks=[evaluation])
    )
    assert launch.test(config, Path('ViT-B-16/openai'), tmp_path) == {'length': 15.0}


@pytest.mark.parametrize(
    ('tool', 'arguments'),
    [('train.py', ['absent.py']), ('test.py', ['absent.py', 'weights.pth'])],
)
def test_tools_say_what_is_wrong_in_one_line(tool, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(TOOLS / tool), run_name='__main__')
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the config 'absent.py' does not exist. `clipdense configs` lists")


def test_tools_show_where_an_error_comes_from_when_asked(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['train.py', 'absent.py', '--verbose'])
    with pytest.raises(InputError):
        runpy.run_path(str(TOOLS / 'train.py'), run_name='__main__')


def test_train_tool_passes_everything_on(monkeypatch):
    seen = []
    monkeypatch.setattr(launch, 'train', lambda *arguments: seen.append(arguments))
    rows = {
        'c.py': ('c.py', None, False, None, [], False, False, None, False),
        'c.py --resume': ('c.py', None, True, None, [], False, False, None, False),
        'c.py --resume x.pth --seed 3': ('c.py', None, 'x.pth', 3, [], False, False, None, False),
        'c.py --resume-strict --work-dir w --cfg-options a=1 b=2': (
            'c.py',
            'w',
            True,
            None,
            ['a=1', 'b=2'],
            True,
            False,
            None,
            False,
        ),
        'c.py --log none --profile': ('c.py', None, False, None, [], False, False, ['none'], True),
        'c.py --overwrite': ('c.py', None, False, None, [], False, True, None, False),
    }
    for line, expected in rows.items():
        monkeypatch.setattr(sys, 'argv', ['train.py', *line.split()])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(TOOLS / 'train.py'), run_name='__main__')
        assert left.value.code == 0
        assert seen.pop() == expected


def test_a_used_folder_is_refused_resumed_or_cleared(make_config, tmp_path):
    config = Config(make_config())
    launch.train(config, tmp_path / 'a', options={'train_cfg.max_steps': 3})
    with pytest.raises(InputError, match=r'has checkpoints of an earlier run \(step_3\.pth\): --resume'):
        launch.train(config, tmp_path / 'a', options={'train_cfg.max_steps': 2})
    launch.train(config, tmp_path / 'a', options={'train_cfg.max_steps': 2}, overwrite=True)
    assert [path.name for path in (tmp_path / 'a').glob('step_*.pth')] == ['step_2.pth']


def missing_data(config: Config) -> Config:
    config.train_dataloader.dataset = {'type': 'VOCSegmentation', 'root': 'nowhere'}
    return config


def test_a_start_that_fails_leaves_nothing(make_config, tmp_path):
    with pytest.raises(InputError, match='the dataset folder nowhere does not exist'):
        launch.train(missing_data(Config(make_config())), tmp_path / 'a')
    assert not (tmp_path / 'a').exists()
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b/mine.txt').touch()
    with pytest.raises(InputError, match='nowhere'):
        launch.train(missing_data(Config(make_config())), tmp_path / 'b')
    assert [path.name for path in (tmp_path / 'b').iterdir()] == ['mine.txt']


@pytest.mark.parametrize('size', [2, 3, 5, 8, 9, 33])
@pytest.mark.parametrize('batch_size', [2, 4, 8])
def test_every_number_of_samples_trains(make_config, tiny, tmp_path, size, batch_size):
    class WithNorm(tiny.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(self.first, nn.BatchNorm1d(4))

    config = Config(make_config(size=size, batch_size=batch_size))
    config.model = {'type': WithNorm}
    config.train_dataloader.drop_last = False
    config.train_cfg = {'max_epochs': 2}
    runner = launch.train(config, tmp_path / 'a')
    batches, rest = divmod(size, batch_size)
    assert runner.iter == 2 * (batches + (rest > 1 or not batches))
