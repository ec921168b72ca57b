"""The moving average of the weights: its values, what is evaluated and kept, and resuming."""

from __future__ import annotations

import pytest
import torch
from mmengine.hooks import Hook
from torch.testing import assert_close

from clipdense.engine import CheckpointHook, EvaluationHook, Runner
from clipdense.engine.checkpointing import read_checkpoint
from clipdense.engine.ema import EMAHook, read_ema
from clipdense.utils.errors import InputError


class Weights(Hook):
    """Keeps the weights after each step."""

    def __init__(self) -> None:
        self.seen: list[dict] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append({name: p.detach().clone() for name, p in runner.model.named_parameters()})


class FirstWeight:
    whole_model = True

    def __call__(self, model):
        return {'first': float(next(model.parameters()).detach().flatten()[0])}


def run(config, **entries):
    runner = Runner.from_cfg({**config, **entries})
    runner.train()
    return runner


def average_of(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).average


@pytest.mark.parametrize(('warmup', 'decays'), [(False, [0.6] * 4), (True, [0.1, 2 / 11, 0.25, 4 / 13])])
def test_the_average_follows_the_weights(make_config, warmup, decays):
    config = make_config(steps=4, ema={'decay': 0.6, 'warmup': warmup}, custom_hooks=[{'type': Weights}])
    runner = Runner.from_cfg(config)
    weights = next(hook for hook in runner.hooks if isinstance(hook, Weights))
    average = {name: p.detach().clone() for name, p in runner.model.named_parameters()}
    runner.train()
    for now, decay in zip(weights.seen, decays, strict=True):
        average = {name: decay * x + (1 - decay) * now[name] for name, x in average.items()}
    assert_close(average_of(runner), average)
    assert_close(dict(runner.model.state_dict()), weights.seen[-1], msg='training continues from the weights')


def test_the_average_is_evaluated_and_kept_as_best(make_config):
    evaluation = {'type': EvaluationHook, 'evaluations': {'first': FirstWeight()}}
    config = make_config(steps=3, ema={'decay': 0.5}, custom_hooks={'evaluation': evaluation})
    config['default_hooks']['checkpoint'] = {'type': CheckpointHook, 'save_best': 'first'}
    runner = run(config)
    name = next(iter(runner.model.state_dict()))
    best = torch.load(f'{runner.work_dir}/best.pth', weights_only=True)
    assert_close(best['state_dict'][name], average_of(runner)[name])
    assert best['meta']['value'] == pytest.approx(float(average_of(runner)[name].flatten()[0]))
    last = read_checkpoint(f'{runner.work_dir}/step_3.pth')
    assert not torch.equal(last['state_dict'][name], last['ema']['weights'][name])


def test_it_resumes_exactly(make_config):
    whole = run(make_config(steps=6, ema={'decay': 0.9}))
    run(make_config(steps=3, work_dir='cut', ema={'decay': 0.9}))
    resumed = run(make_config(steps=6, work_dir='cut', ema={'decay': 0.9}), resume=True)
    assert_close(average_of(resumed), average_of(whole), rtol=0, atol=0)


def test_a_checkpoint_without_it_can_be_resumed_with_it(make_config, caplog):
    run(make_config(steps=3))
    resumed = run(make_config(steps=4, ema={'decay': 0.9}), resume=True)
    assert average_of(resumed)


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'decai': 0.9}, 'ema.decai: unknown entry; use decay and warmup.*decay'),
        ({'decay': 1.0}, 'ema.decay must be a number from 0 to below 1, such as 0.9998, got 1.0'),
        ({'decay': 'much'}, "got 'much'"),
        ({'warmup': 3}, 'ema.warmup must be true or false, got 3'),
        (0.99, r'ema must be a part such as ema=dict\(decay=0.9998\), got 0.99'),
    ],
)
def test_wrong_settings(section, message):
    with pytest.raises(InputError, match=message):
        read_ema(section)
