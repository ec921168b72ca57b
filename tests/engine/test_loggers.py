"""TensorBoard by default, Weights & Biases and MLflow where they are installed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from mmengine.config import Config

from clipdense.engine import loggers
from clipdense.engine.launch import train
from clipdense.engine.loggers import LOGGERS, read_log
from clipdense.utils.errors import InputError, MissingPackage


def run(make_config, log=None, **settings):
    own = {name: settings.pop(name) for name in ('resume', 'overwrite', 'options') if name in settings}
    return train(Config(make_config(**settings)), log=log, **own)


def folder(make_config) -> Path:
    return Path(make_config()['work_dir'])


def log_text(runner) -> str:
    return ''.join(path.read_text() for path in Path(runner.work_dir).rglob('*.log'))


def events(runner, tag='train/loss'):
    """Steps and values that TensorBoard shows."""
    found = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    loaded = found.EventAccumulator(str(Path(runner.work_dir) / 'tensorboard'))
    loaded.Reload()
    return [(one.step, one.value) for one in loaded.Scalars(tag)]


def _one_of_two(rank, config):
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    train(Config({**config, 'launcher': 'pytorch'}))


@pytest.fixture
def without(monkeypatch):
    """None of the packages is installed."""
    monkeypatch.setattr(loggers.importlib.util, 'find_spec', lambda name: None)


class TestTensorBoard:
    def test_is_written_by_default(self, make_config):
        runner = run(make_config)
        recorded = [
            json.loads(line) for line in (Path(runner.work_dir) / 'metrics.jsonl').read_text().splitlines()
        ]
        assert events(runner) == [(one['step'], pytest.approx(one['loss'])) for one in recorded]
        for name in ('lr', 'samples_seen', 'grad_norm', 'data_wait', 'images_per_second'):
            assert len(events(runner, f'train/{name}')) == 3

    def test_a_resumed_run_continues_in_the_same_folder(self, make_config):
        """What an interrupted run wrote after its checkpoint is shown once."""
        run(make_config, steps=4)
        work_dir = folder(make_config)
        kept = (work_dir / 'step_4.pth').read_bytes()
        run(make_config, steps=8, resume=True)
        for path in work_dir.glob('step_*.pth'):
            path.unlink()
        (work_dir / 'step_4.pth').write_bytes(kept)
        runner = run(make_config, steps=10, resume=True)
        assert [step for step, _ in events(runner)] == [2, 4, 6, 8, 10]

    def test_a_run_that_overwrites_starts_anew(self, make_config):
        run(make_config, steps=8)
        assert [step for step, _ in events(run(make_config, steps=4, overwrite=True))] == [2, 4]

    @pytest.mark.parametrize('how', ['option', 'config', 'set'])
    def test_none(self, make_config, how):
        given = {
            'option': {'log': 'none'},
            'config': {'settings': {'log': 'none'}},
            'set': {'options': ['log=none']},
        }[how]
        runner = run(make_config, **{**given, **given.pop('settings', {})})
        assert not (Path(runner.work_dir) / 'tensorboard').exists()
        assert (Path(runner.work_dir) / 'metrics.jsonl').exists()

    def test_is_not_installed(self, make_config, without):
        runner = run(make_config)
        remark = 'no TensorBoard log is written: pip install "clipdense[tensorboard]", or use --log none'
        assert log_text(runner).count(remark) == 1
        assert 'TensorBoard' not in log_text(run(make_config, work_dir='quiet', log='none'))

    def test_a_folder_that_cannot_be_written(self, make_config):
        """Asked for it is an error; by default training goes on."""
        folder(make_config).mkdir()
        (folder(make_config) / 'tensorboard').write_text('a file')
        with pytest.raises(
            InputError, match=r'tensorboard cannot be used: cannot make the folder .*--log none'
        ):
            run(make_config, log='tensorboard')
        assert 'tensorboard cannot be used: cannot make the folder' in log_text(run(make_config))

    def test_a_disk_that_fills_up(self, make_config, monkeypatch):
        def full(self, values, step):
            raise OSError(28, 'No space left on device')

        monkeypatch.setattr(loggers.TensorBoard, 'write', full)
        text = log_text(run(make_config))
        assert text.count('tensorboard log ends at step 2, training continues: ') == 1

    def test_only_the_main_process_writes(self, make_config, run_processes):
        pytest.importorskip('tensorboard')
        run_processes(_one_of_two, make_config(size=12))
        assert len(list((folder(make_config) / 'tensorboard').iterdir())) == 1


def fake(name: str, record: list) -> ModuleType:
    """The part of the packages that is used, as of wandb 0.31 and mlflow 3.17."""
    module = ModuleType(name)

    def begin(**settings):
        record.append(('begin', settings))
        known = settings.get('id') or settings.get('run_id')
        return SimpleNamespace(
            id=known or 'new',
            info=SimpleNamespace(run_id=known or 'new'),
            config=SimpleNamespace(update=lambda *_, **__: None),
            log=lambda values, step: record.append((step, values)),
            finish=lambda: record.append('end'),
        )

    module.init = module.start_run = begin
    module.Settings = lambda: SimpleNamespace(project=None)
    module.set_experiment = lambda name: None
    module.log_text = lambda text, path: None
    module.log_metrics = lambda values, step: record.append((step, values))
    module.end_run = lambda: record.append('end')
    return module


@pytest.mark.parametrize(('name', 'key'), [('wandb', 'id'), ('mlflow', 'run_id')])
def test_services_get_every_line_and_continue_their_run(make_config, monkeypatch, name, key):
    record: list = []
    monkeypatch.setitem(sys.modules, name, fake(name, record))
    monkeypatch.setattr(loggers.importlib.util, 'find_spec', lambda _: object())
    run(make_config, log=name, steps=4)
    assert [one[0] for one in record[1:-1]] == [2, 4]
    assert 'train/loss' in record[1][1]
    assert (record[0][1][key], record[-1]) == (None, 'end')
    run(make_config, log=[name], steps=6, resume=True)
    assert record[4] == ('begin', {**record[4][1], key: 'new'})
    assert [one[0] for one in record[5:-1]] == [6]


def test_a_service_that_cannot_be_reached(make_config, monkeypatch):
    """Nothing is left of a run that is refused."""
    module = fake('wandb', [])
    module.init = lambda **_: (_ for _ in ()).throw(RuntimeError('no API key\nconfigured'))
    monkeypatch.setitem(sys.modules, 'wandb', module)
    monkeypatch.setattr(loggers.importlib.util, 'find_spec', lambda _: object())
    with pytest.raises(
        InputError, match='wandb cannot be used: no API key configured; leave out --log wandb'
    ):
        run(make_config, log='wandb')
    assert not folder(make_config).exists()


@pytest.mark.parametrize('name', LOGGERS)
def test_a_package_that_is_missing(without, name):
    with pytest.raises(MissingPackage, match=rf'--log {name} needs .*: pip install "clipdense\[{name}\]"'):
        read_log(name)


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ('tensorbord', "got 'tensorbord'. Did you mean 'tensorboard'"),
        (['none', 'tensorboard'], 'contradicts itself'),
        (['none', 'x'], "got 'x'"),
        ('', "got ''"),
        (3, 'log must be a name or a list of names'),
        ({'wandb': 1}, 'log must be a name or a list of names'),
    ],
)
def test_values_that_are_refused(make_config, value, message):
    with pytest.raises(InputError, match=message):
        read_log(value)
    with pytest.raises(InputError, match=message):
        train(Config(make_config(log=value)))
    assert not folder(make_config).exists()


def test_a_visualizer_of_the_config_is_used(make_config):
    from mmengine.visualization import Visualizer

    own = {'visualizer': {'type': Visualizer, 'vis_backends': []}}
    assert not (Path(run(make_config, **own).work_dir) / 'tensorboard').exists()
    runner = run(make_config, work_dir='asked', log='tensorboard', **own)
    assert (Path(runner.work_dir) / 'tensorboard').exists()
    with pytest.raises(InputError, match='has both log and visualizer'):
        run(make_config, work_dir='both', options={'log': 'none'}, **own)
