"""Hooks, evaluations and schedules have names, by which one of them is changed or removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import ConstantLR, MultiStepLR

from clipdense.config import load_config
from clipdense.engine import EvaluationHook, Runner
from clipdense.registry import EVALUATIONS, HOOKS, entries
from clipdense.utils.errors import InputError


@HOOKS.register_module()
class Noted(Hook):
    """Writes its word in ``notes`` when the training begins."""

    notes: ClassVar[list[str]] = []

    def __init__(self, word: str) -> None:
        self.word = word

    def before_train(self, runner) -> None:
        self.notes.append(self.word)


@EVALUATIONS.register_module()
class Constant:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, clip):
        return {self.name: 1.0}


def ran(make_config, options=(), **parts):
    """The runner of one step, its config read with ``options``."""
    Noted.notes.clear()
    runner = Runner.from_cfg(load_config(Config(make_config(steps=1, **parts)), options))
    runner.train()
    return runner


HOOKS_BY_NAME = {'b': {'type': Noted, 'word': 'one'}, 'a': {'type': Noted, 'word': 'two'}}


@pytest.mark.parametrize(
    ('hooks', 'options', 'expected'),
    [
        (HOOKS_BY_NAME, [], ['one', 'two']),
        (list(HOOKS_BY_NAME.values()), [], ['one', 'two']),
        (HOOKS_BY_NAME, ['custom_hooks.b=none'], ['two']),
        (HOOKS_BY_NAME, ['custom_hooks.a.word=three'], ['one', 'three']),
        ({}, [], []),
    ],
    ids=['by name, in their order', 'a list', 'one removed', 'one changed', 'none'],
)
def test_hooks(make_config, hooks, options, expected):
    ran(make_config, options, custom_hooks=hooks)
    assert Noted.notes == expected


def test_evaluations(make_config):
    evaluations = {name: {'type': Constant, 'name': name} for name in ('zero_shot/base', 'zero_shot/novel')}
    hooks = {'evaluation': {'type': EvaluationHook, 'evaluations': evaluations}}
    changes = [
        'custom_hooks.evaluation.evaluations.zero_shot/base=none',
        'custom_hooks.evaluation.evaluations.zero_shot/novel.name=other',
    ]
    runner = ran(make_config, changes, custom_hooks=hooks)
    lines = (Path(runner.work_dir) / 'metrics.jsonl').read_text().splitlines()
    assert {'other': 1.0}.items() <= json.loads(lines[-1]).items()
    assert not any('zero_shot/base' in line for line in lines)
    assert EvaluationHook([Constant('a'), None, Constant('b')]).evaluations[1].name == 'b'


def test_schedules(make_config):
    schedules = {
        'warmup': {'type': ConstantLR, 'factor': 0.5, 'by_epoch': False, 'end': 3},
        'decay': {'type': MultiStepLR, 'milestones': [10], 'by_epoch': False},
    }
    found = {}
    for name, given in (('named', schedules), ('list', list(schedules.values()))):
        runner = ran(make_config, [], param_scheduler=given)
        found[name] = [type(scheduler) for scheduler in runner.param_schedulers]
        found[f'{name} lr'] = runner.optim_wrapper.get_lr()
    assert [kind.__name__ for kind in found['named']] == ['ConstantLR', 'MultiStepLR']
    assert (
        len(ran(make_config, ['param_scheduler.decay=none'], param_scheduler=schedules).param_schedulers) == 1
    )
    assert (found['named'], found['named lr']) == (found['list'], found['list lr'])


@pytest.mark.parametrize('where', ['custom_hooks', 'evaluations'])
def test_a_part_without_a_name_is_refused(where):
    with pytest.raises(InputError, match=rf'{where} holds a single config; give it a name'):
        entries({'type': Noted, 'word': 'one'}, where)


def test_a_config_of_ours_by_name():
    options = [
        'custom_hooks.evaluation.interval=100',
        'custom_hooks.segmentation=none',
        'param_scheduler.warmup=7',
    ]
    cfg = load_config('contrastive/clip_scenes', options)
    assert cfg.custom_hooks.evaluation.interval == 100
    assert cfg.custom_hooks.segmentation is None
    assert cfg.param_scheduler.warmup == 7
    with pytest.raises(InputError, match=r"no entry 'custom_hooks\.evaluatoin'\. Did you mean 'evaluation'"):
        load_config('contrastive/clip_scenes', ['custom_hooks.evaluatoin.interval=100'])
