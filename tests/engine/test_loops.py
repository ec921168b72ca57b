"""The loop's counting, its refusals, and the loaders it builds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from clipdense.data.batches import collate
from clipdense.engine import ResumableSampler, Runner
from clipdense.engine.loops import build_loader
from clipdense.engine.resume import steady_worker
from clipdense.utils.errors import InputError


class Record(Hook):
    """Writes down what is called, with epoch and step."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def before_train_epoch(self, runner):
        self.calls.append(('epoch', runner.epoch, runner.iter))

    def after_train_epoch(self, runner):
        self.calls.append(('end', runner.epoch, runner.iter))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        assert runner.train_loop.position.step == runner.iter + 1
        self.calls.append(('step', batch_idx, runner.iter))

    def before_val_epoch(self, runner):
        self.calls.append(('val', runner.epoch, runner.iter))


def run(config, hook=None):
    hook = hook or Record()
    config = {**config, 'default_hooks': {**config['default_hooks'], 'checkpoint': None, 'record': hook}}
    runner = Runner.from_cfg(config)
    runner.train()
    return runner, next(hook for hook in runner.hooks if isinstance(hook, Record)).calls


@pytest.mark.parametrize('stream', [False, True], ids=['map', 'iterable'])
def test_epochs_and_steps(make_config, stream):
    _, calls = run(make_config(steps=3, size=4, stream=stream))
    assert calls == [
        ('epoch', 0, 0), ('step', 0, 0), ('step', 1, 1), ('end', 0, 2),
        ('epoch', 1, 2), ('step', 0, 2), ('end', 1, 3),
    ]  # fmt: skip


def test_length_in_epochs(make_config):
    runner, calls = run(make_config(size=4, train_cfg={'max_epochs': 2}))
    assert runner.max_iters == 4
    assert [call[0] for call in calls] == ['epoch', 'step', 'step', 'end'] * 2


def test_partial_last_batch_is_dropped_or_kept(make_config):
    config = make_config(size=5, train_cfg={'max_epochs': 1})
    assert run(config)[0].iter == 2
    config['train_dataloader']['drop_last'] = False
    assert run(config)[0].iter == 3


@pytest.mark.parametrize(
    ('train_cfg', 'expected'),
    [
        ({'max_steps': 5}, [2, 4, 5]),  # each epoch
        ({'max_steps': 5, 'val_interval': 3}, [3, 5]),
        ({'max_steps': 5, 'val_interval': 1, 'val_begin': 4}, [4, 5]),
        ({'max_steps': 5, 'val_interval': 9}, [5]),
    ],
)
def test_validation_steps(make_config, tiny, train_cfg, expected):
    validation = {
        'val_dataloader': {'dataset': {'type': tiny.Map, 'size': 2}, 'batch_size': 2},
        'val_cfg': {},
        'val_evaluator': {'type': tiny.Metric},
    }
    runner, calls = run(make_config(size=4, train_cfg=train_cfg, **validation))
    assert [step for name, _, step in calls if name == 'val'] == expected
    lines = [json.loads(line) for line in (Path(runner.work_dir) / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines if line.get('stage') == 'val'] == expected


REFUSED = {
    'no length given': ({'train_cfg': {}}, 'exactly one of max_steps and max_epochs'),
    'two lengths': (
        {'train_cfg': {'max_steps': 1, 'max_epochs': 1}},
        'exactly one of max_steps and max_epochs',
    ),
    'negative length': ({'train_cfg': {'max_steps': -5}}, 'max_steps must be .* at least 1, got -5'),
    'epochs of a stream': ({'stream': True, 'train_cfg': {'max_epochs': 1}}, 'no length; use max_steps'),
    'too few samples': ({'size': 1}, '1 samples, less than one batch of 2; lower batch_size'),
    'no samples': ({'size': 0}, '0 samples'),
    'too few in a stream': ({'size': 1, 'stream': True}, 'no batch, less than one batch of 2'),
    'too few in each worker': ({'size': 3, 'stream': True, 'workers': 2}, 'and 2 workers'),
}


@pytest.mark.parametrize(('entries', 'message'), REFUSED.values(), ids=REFUSED)
def test_refusals(make_config, entries, message):
    with pytest.raises(InputError, match=message):
        run(make_config(**entries))


def test_error_of_a_worker_is_one_line(make_config, tiny, monkeypatch):
    def broken(self, index):
        raise InputError('5 of 20 images could not be used: fix the data')

    monkeypatch.setattr(tiny.Map, '__getitem__', broken)
    with pytest.raises(InputError) as error:
        run(make_config(workers=1))
    assert str(error.value) == '5 of 20 images could not be used: fix the data'


def test_loader_defaults(tiny):
    loader = build_loader({'dataset': {'type': tiny.Map, 'size': 4}, 'batch_size': 2})
    assert isinstance(loader.sampler, DefaultSampler), 'all samples, whatever the number of processes'
    assert loader.collate_fn is collate
    assert loader.worker_init_fn is steady_worker
    assert [batch['labels'].flatten().tolist() for batch in loader] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    'entries',
    [
        {'sampler': {'type': 'DefaultSampler', 'shuffle': False}, 'batch_size': 2},
        {'sampler': torch.utils.data.SequentialSampler(range(4)), 'batch_size': 2},
        {'batch_sampler': {'type': torch.utils.data.BatchSampler, 'drop_last': False}, 'batch_size': 2},
        {'collate_fn': {'type': 'default_collate'}, 'batch_size': 2},
    ],
    ids=['MMEngine sampler', 'built sampler', 'batch sampler', 'collate by name'],
)
def test_loader_as_mmengine_writes_it(tiny, entries):
    loader = build_loader({'dataset': tiny.Map(4), **entries})
    assert len(loader) == 2
    assert [batch['labels'].flatten().tolist() for batch in loader] == [[0, 1], [2, 3]]


def test_training_shuffles_unless_told_otherwise(make_config):
    config = make_config(train_cfg={'max_epochs': 1})
    config['train_dataloader'].pop('sampler')
    runner, _ = run(config)
    seen = [label for batch in runner.model.seen for label in batch]
    assert seen != sorted(seen)
    assert sorted(seen) == list(range(10))


def test_training_data_takes_the_seed_of_the_run(make_config, tiny):
    class Seeded(tiny.Map):
        def __init__(self, size, seed=0):
            super().__init__(size)
            self.seed = seed

    config = make_config(train_cfg={'max_epochs': 1})
    config['train_dataloader']['dataset'] = {'type': Seeded, 'size': 4}
    assert run(config)[0].train_dataloader.dataset.seed == 5
    config['train_dataloader']['dataset']['seed'] = 8
    assert run(config)[0].train_dataloader.dataset.seed == 8
    assert build_loader({'dataset': {'type': Seeded, 'size': 4}, 'batch_size': 2}, seed=5).dataset.seed == 0


def test_loader_of_an_iterable_has_no_sampler(tiny):
    loader = build_loader({'dataset': tiny.Stream(4), 'batch_size': 2, 'sampler': {'type': ResumableSampler}})
    assert isinstance(loader, DataLoader)
    assert len(list(loader)) == 2


def test_the_batch_size_is_given_once(make_config, tiny):
    """A stream is told that of its loader; two numbers made resuming within an epoch inexact."""
    config = make_config(stream=True, batch_size=3)
    assert build_loader(config['train_dataloader']).dataset.batch_size == 3
    for own in (3, 4):
        loader = {**config['train_dataloader'], 'dataset': {'type': tiny.Stream, 'batch_size': own}}
        with pytest.raises(
            InputError, match=rf'given once, as train_dataloader\.batch_size={own}; remove it'
        ):
            build_loader(loader)
    built = {**config, 'train_dataloader': {'dataset': tiny.Stream(6, 2), 'batch_size': 3}}
    with pytest.raises(
        InputError, match=r'TinyStream was built with batch_size=2 .* batch_size=3; give both'
    ):
        Runner.from_cfg(built).train()


@pytest.mark.parametrize('batch_size', [1, 2, 3])
def test_a_stream_resumes_exactly_with_another_batch_size(make_config, losses_of, batch_size):
    """The option changes the loader alone."""
    config = make_config(stream=True, size=24, work_dir=f'whole{batch_size}')
    config['train_dataloader']['batch_size'] = batch_size
    whole = Runner.from_cfg({**config, 'train_cfg': {'max_steps': 6}})
    whole.train()
    config['work_dir'] += '_in_parts'
    for steps in (3, 6):
        part = Runner.from_cfg({**config, 'train_cfg': {'max_steps': steps}, 'resume': True})
        part.train()
    assert losses_of(part)[-3:] == losses_of(whole)[-3:]
