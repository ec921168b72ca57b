"""Training on a disk that is really full: limits on file sizes in a process of its own, or a small disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from clipdense.engine import CheckpointHook, Runner
from clipdense.engine.checkpointing import newest_checkpoint, read_checkpoint, write_checkpoint
from clipdense.engine.hooks import METRICS_FILE
from clipdense.utils.errors import WriteError
from clipdense.utils.files import append_line, atomic_write
from clipdense.weights.io import write_weights

LIMIT = 50_000  # bytes; the checkpoints of the tiny model are smaller, those of the large one larger


def limited(function, *args, limit=LIMIT):
    """The result of a function, or its exception, in a process that cannot write files above the limit."""
    context = multiprocessing.get_context('fork')
    queue = context.Queue()

    def run():
        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            result = function(*args)
        except BaseException as error:
            result = error
        queue.put(result)

    process = context.Process(target=run)
    process.start()
    result = queue.get(timeout=60)
    process.join(60)
    return result


def _text(path):
    with atomic_write(path, 'w') as file:
        file.write('x' * 100_000)


def _checkpoint(path):
    write_checkpoint(path, {'state_dict': {'weight': torch.ones(100, 500)}, 'meta': {}})


WRITERS = {
    'checkpoint': (_checkpoint, 'at least 200,000 bytes needed'),
    'a checkpoint of many small tensors': (
        lambda path: write_checkpoint(
            path, {'state_dict': {f'w{i}': torch.ones(9) for i in range(999)}, 'meta': {}}
        ),
        'bytes needed',
    ),
    'safetensors': (lambda path: write_weights(path, {'weight': torch.ones(100, 500)}), 'bytes needed'),
    'text': (_text, 'bytes needed'),
}


@pytest.mark.parametrize(('write', 'needed'), WRITERS.values(), ids=WRITERS)
def test_full_disk_names_path_needed_and_free_bytes(tmp_path, write, needed):
    path = tmp_path / 'file'
    path.write_bytes(b'old')
    error = limited(write, path)
    assert isinstance(error, WriteError)
    assert f'no space to write {path}: the limit on the size of a file' in str(error)
    assert needed in str(error)
    assert ' bytes free; the old file is unchanged' in str(error)
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path], 'no temporary file is left'


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'new' / 'lines.txt'
    append_line(path, 'first')
    assert isinstance(limited(append_line, path, 'x' * 100, limit=50), WriteError)
    append_line(path, 'last')
    assert path.read_text() == 'first\nlast\n'


class Grow(Hook):
    """Makes the model too large for the disk at a step, and small again at another."""

    def __init__(self, at: int, until: int = 99) -> None:
        self.at, self.until = at, until

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.at:
            runner.model.ballast = nn.Parameter(torch.zeros(20_000))
        if runner.iter + 1 == self.until:
            del runner.model.ballast


def _train(config, grow, **options):
    checkpoint = {'type': CheckpointHook, 'interval': 1, 'max_keep': 2, **options}
    hooks = {**config['default_hooks'], 'checkpoint': checkpoint, 'grow': grow}
    return Runner.from_cfg({**config, 'default_hooks': hooks}).train() is not None


def test_full_disk_stops_training_and_keeps_the_last_checkpoint(make_config):
    config = make_config()
    error = limited(_train, config, Grow(3))
    assert isinstance(error, WriteError)
    assert 'step_3.pth' in str(error)
    folder = Path(config['work_dir'])
    assert newest_checkpoint(folder).name == 'step_2.pth'
    assert read_checkpoint(folder / 'step_1.pth')['position']['step'] == 1
    assert not list(folder.glob('.*'))


def test_full_disk_with_a_warning_trains_on(make_config, capfd):
    config = make_config()
    assert limited(_train, {**config, 'work_dir': config['work_dir']}, _Warned(3, 5)) is True
    folder = Path(config['work_dir'])
    assert sorted(path.name for path in folder.glob('step_*')) == ['step_5.pth', 'step_6.pth']
    said = [line for line in capfd.readouterr().err.splitlines() if 'checkpoint not saved' in line]
    assert len(said) == 2
    assert 'step_3.pth' in said[0]
    assert 'bytes needed' in said[0]


class _Warned(Grow):
    """Changes the hook of the run to on_error='warn'."""

    def before_train(self, runner):
        next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook)).on_error = 'warn'


def test_metrics_and_log_on_a_full_disk_cost_no_training(make_config, capfd):
    """Neither can grow above a size that both have from the start."""
    config = make_config(steps=6)
    record = Path(config['work_dir']) / METRICS_FILE
    append_line(record, json.dumps('x' * 1490))
    config['default_hooks'] = {**config['default_hooks'], 'checkpoint': None}

    def run():
        runner = Runner.from_cfg(config)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
        runner.train()
        return runner.iter

    assert limited(run, limit=1_000_000) == 6
    err = capfd.readouterr().err
    assert 'not recorded, training continues: no space to write' in err
    assert err.count('the log file is incomplete') == 1
    assert 'Traceback' not in err
    assert len([json.loads(line) for line in record.read_text().splitlines()]) == 1


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which('mount'), reason='mounting needs root')
def test_a_really_full_file_system(tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=128k', 'tmpfs', disk], capture_output=True)
    if mounted.returncode:
        pytest.skip('mounting is not allowed')
    try:
        write_checkpoint(disk / 'a.pth', {'state_dict': {'weight': torch.ones(10)}, 'meta': {}})
        with pytest.raises(
            WriteError, match=r'a\.pth: the disk is full, at least 200,000 bytes needed, \d+,\d+ bytes free'
        ):
            _checkpoint(disk / 'a.pth')
        assert read_checkpoint(disk / 'a.pth')['state_dict']['weight'].sum() == 10
        subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
        with pytest.raises(WriteError, match=r'cannot write .*[Rr]ead-only'):
            write_checkpoint(disk / 'a.pth', {'state_dict': {}, 'meta': {}})
    finally:
        subprocess.run(['umount', disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason='changes the user')
def test_unwritable_folder_is_refused_before_anything_is_built(make_config, tmp_path):
    config = make_config()
    (tmp_path / 'run').mkdir(mode=0o755)

    def as_nobody():
        os.setuid(65534)
        return Runner.from_cfg(config)

    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    error = limited(as_nobody)
    assert isinstance(error, WriteError)
    assert 'is not writable; choose another one' in str(error)


class Remove(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 3:
            shutil.rmtree(runner.work_dir)


def test_folder_removed_during_training_is_made_again_and_said(make_config, capfd):
    config = make_config()
    _train(config, Remove())
    assert newest_checkpoint(config['work_dir']).name == 'step_6.pth'
    assert (
        'earlier checkpoints were removed by another program: step_2.pth, step_3.pth'
        in capfd.readouterr().err
    )
