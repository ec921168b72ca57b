"""What is written can be read; what is damaged, foreign or unfitting is refused in one line."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub

from clipdense.engine.checkpointing import (
    damage,
    hub_state,
    newest_checkpoint,
    plain,
    read_checkpoint,
    remove_orphans,
    set_hub_state,
    write_checkpoint,
)
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.weights.io import read_weights

PLAIN = {
    'numpy numbers': ([np.float32(1.5), np.int64(2), np.bool_(True)], [1.5, 2, True]),
    'containers': (OrderedDict(a=(1, [2.0, None])), {'a': (1, [2.0, None])}),
    'text of a class of its own': (torch.__version__, str(torch.__version__)),
    'bool stays bool': (True, True),
    'integer keys': ({0: 'x', 1: 'y'}, {0: 'x', 1: 'y'}),
}


@pytest.mark.parametrize(('value', 'expected'), PLAIN.values(), ids=PLAIN)
def test_plain(value, expected):
    result = plain(value)
    assert result == expected
    assert type(result) is type(expected)


def test_plain_arrays():
    result = plain({'a': np.arange(3)})
    assert torch.equal(result['a'], torch.arange(3))


@pytest.mark.parametrize(
    'value', [{1, 2}, object(), print, Path('x')], ids=['set', 'object', 'function', 'path']
)
def test_not_plain(value):
    with pytest.raises(TypeError, match=r"checkpoint\['a'\]\[0\] is a .*plain data"):
        plain({'a': [value]})


def checkpoint(**entries):
    return {'state_dict': {'weight': torch.ones(2)}, 'meta': {}, **entries}


def test_round_trip(tmp_path):
    write_checkpoint(tmp_path / 'a.pth', checkpoint(random=[(3, (1, 2), None)]))
    content = read_checkpoint(tmp_path / 'a.pth')
    assert content['random'] == [(3, (1, 2), None)]
    assert torch.equal(content['state_dict']['weight'], torch.ones(2))
    assert torch.equal(read_weights(tmp_path / 'a.pth').tensors['weight'], torch.ones(2))


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / 'a.pth'
    write_checkpoint(path, checkpoint())
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_checkpoint(path, checkpoint(bad=object()))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    at = data.index(torch.ones(2).numpy().tobytes())
    data[at] ^= 1
    path.write_bytes(data)


BROKEN = {
    'missing': (Path.unlink, 'does not exist'),
    'empty': (lambda path: path.write_bytes(b''), 'is empty'),
    'cut short': (cut, r'damaged or truncated \(\d+ bytes\)'),
    'HTML': (lambda path: path.write_text('<html>404</html>'), 'damaged or truncated'),
    'one bit': (flip, 'checksum'),
    'foreign': (
        lambda path: torch.save({'weight': torch.ones(1)}, path),
        'not a training checkpoint.*load_from',
    ),
    'code': (
        lambda path: torch.save(os.system, path),
        'is not a checkpoint of clipdense: it contains objects',
    ),
}


@pytest.mark.parametrize(('ruin', 'message'), BROKEN.values(), ids=BROKEN)
def test_refused(tmp_path, ruin, message):
    path = tmp_path / 'step_1.pth'
    write_checkpoint(path, checkpoint())
    ruin(path)
    with pytest.raises(CheckpointError, match=message) as error:
        read_checkpoint(path)
    assert '\n' not in str(error.value)


def make_folder(folder, ages, pointer=None):
    """Step checkpoints by age in seconds, and what last_checkpoint names."""
    now = time.time()
    for step, age in ages.items():
        path = folder / f'step_{step}.pth'
        write_checkpoint(path, checkpoint())
        os.utime(path, (now - age, now - age))
    if pointer:
        (folder / 'last_checkpoint').write_text(f'{pointer}\n')


NEWEST = {
    'by time': ({10: 5, 20: 1}, None, [], 'step_20.pth'),
    'of an earlier, longer run': ({900: 50, 20: 1}, None, [], 'step_20.pth'),
    'same time, by step': ({9: 1, 10: 1}, None, [], 'step_10.pth'),
    'as pointed to': ({10: 5, 20: 1}, 'step_10.pth', [], 'step_10.pth'),
    'pointed to, absent': ({10: 5, 20: 1}, 'step_30.pth', [], 'step_20.pth'),
    'pointed to, damaged': ({10: 5, 20: 1}, 'step_20.pth', [20], 'step_10.pth'),
    'two damaged': ({10: 5, 20: 2, 30: 1}, None, [20, 30], 'step_10.pth'),
    'pointer as MMEngine writes it': ({10: 5}, '/elsewhere/run/step_10.pth', [], 'step_10.pth'),
}


@pytest.mark.parametrize(('ages', 'pointer', 'damaged', 'expected'), NEWEST.values(), ids=NEWEST)
def test_newest(tmp_path, ages, pointer, damaged, expected):
    make_folder(tmp_path, ages, pointer)
    for step in damaged:
        stat = (tmp_path / f'step_{step}.pth').stat()
        cut(tmp_path / f'step_{step}.pth')
        os.utime(tmp_path / f'step_{step}.pth', (stat.st_atime, stat.st_mtime))
    assert newest_checkpoint(tmp_path).name == expected


def test_newest_of_nothing(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / 'absent') is None


def test_strict_refuses_to_fall_back(tmp_path):
    make_folder(tmp_path, {10: 5, 20: 1})
    cut(tmp_path / 'step_20.pth')
    with pytest.raises(CheckpointError, match=r'step_20\.pth is damaged.*load_from=PATH'):
        newest_checkpoint(tmp_path, strict=True)


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    make_folder(tmp_path, {10: 5})
    cut(tmp_path / 'step_10.pth')
    with pytest.raises(CheckpointError, match='damaged'):
        newest_checkpoint(tmp_path)


def test_remove_orphans(tmp_path):
    names = ['.step_3.pth.abc.tmp', '.best.pth.x.tmp', '.last_checkpoint.y.tmp', 'step_3.pth', '.other.tmp']
    for name in names:
        (tmp_path / name).touch()
    assert {path.name for path in remove_orphans(tmp_path)} == set(names[:3])
    assert {path.name for path in tmp_path.iterdir()} == set(names[3:])


def test_hub_history_is_kept_and_bounded(tmp_path):
    hub, other = MessageHub(f'{tmp_path}/a'), MessageHub(f'{tmp_path}/b')
    for value in range(1500):
        hub.update_scalar('train/loss', value)
    set_hub_state(other, plain(hub_state(hub)))
    other.update_scalar('train/loss', 7.0)
    values, counts = other.get_scalar('train/loss').data
    assert values.tolist() == [*range(500, 1500), 7]
    assert counts.tolist() == [1] * 1001


def test_unwritable_folder_is_an_input_error(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError):
        write_checkpoint(tmp_path / 'file' / 'a.pth', checkpoint())
    assert damage(tmp_path / 'file' / 'a.pth') == 'does not exist'
