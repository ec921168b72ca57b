"""The numbers that two processes log equal those worked out from the samples of both."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from clipdense.data.faults import FaultBudget, report_faults
from clipdense.engine import ProgressHook, Runner
from clipdense.engine.hooks import METRICS_FILE
from clipdense.tasks.model import Model
from clipdense.utils.dist import mean_over_processes
from clipdense.utils.errors import InputError


class Plain(Model):
    """One weight; the loss is the mean square of (weight * image - label), without any randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5, -0.2, 0.1]))
        self.seen: list[list[float]] = []

    def forward(self, images, labels, mode='tensor'):
        self.seen.append(labels.flatten().tolist())
        errors = images @ self.weight - labels.flatten()
        return {'loss': errors.square().mean(), 'largest': errors.detach().abs().max()}


def _train(rank, config):
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    runner = Runner.from_cfg({**config, 'launcher': 'pytorch'})
    try:
        runner.train()
    except InputError as error:
        return str(error)
    own = [float(value) for value in runner.message_hub.get_scalar('train/loss').data[0]]
    return own, runner.model.state_dict()['module.weight'].tolist()


def config_of(make_config, **entries):
    """4 steps of 2 x 2 samples, a line every second step."""
    config = make_config(steps=4, size=16, model={'type': Plain}, **entries)
    hooks = {'checkpoint': None, 'logger': {'type': ProgressHook, 'interval': 2}}
    return {**config, 'default_hooks': {**config['default_hooks'], **hooks}}


def lines_of(config):
    text = (Path(config['work_dir']) / METRICS_FILE).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_logged_values_are_those_of_all_processes(make_config, run_processes):
    both = config_of(make_config, work_dir='both')
    results = run_processes(_train, both)
    assert results[0][0] != results[1][0], 'each process has its own samples'
    assert results[0][1] == results[1][1], 'and the same weights'
    single = config_of(make_config, work_dir='single', batch_size=4)
    runner = Runner.from_cfg(single)
    runner.train()
    assert runner.model.weight.tolist() == pytest.approx(results[0][1], abs=1e-6)
    for ours, expected in zip(lines_of(both), lines_of(single), strict=True):
        assert ours['loss'] == pytest.approx(expected['loss'], rel=1e-5), 'a mean over all four samples'
        assert ours['lr'] == expected['lr']
    halves = [sum(losses[:2]) / 2 for losses, _ in results]
    assert lines_of(both)[0]['loss'] == pytest.approx(sum(halves) / 2, rel=1e-5)


def test_the_order_of_the_samples_does_not_depend_on_the_log(make_config, run_processes):
    """Logging at another interval trains to the same last bit."""
    often = config_of(make_config, work_dir='often')
    often['default_hooks']['logger'] = {'type': ProgressHook, 'interval': 1}
    assert run_processes(_train, often) == run_processes(_train, config_of(make_config, work_dir='seldom'))


def _means(rank):
    values = [{'loss': 1.0, 'accuracy': 0.25}, {'loss': 4.0}][rank]
    return mean_over_processes(values, [3, 5][rank])


def test_a_value_of_one_process_is_its_mean(run_processes):
    assert run_processes(_means) == [({'loss': 2.5, 'accuracy': 0.25}, 8)] * 2


class PoisonOne(Hook):
    """The loss of process 1 is NaN at the third step."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and runner.iter == 2:
            data_batch['images'].fill_(float('nan'))


def test_nan_in_one_process_stops_both_with_one_message(make_config, run_processes):
    config = config_of(make_config, custom_hooks={'poison': {'type': PoisonOne}})
    one, other = run_processes(_train, config)
    assert one == other
    assert 'the loss is nan at step 3 (epoch 0) in process 1 of 2' in one


class Counted(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.faults = FaultBudget('images', 1.0)


class Wrapper(torch.utils.data.Dataset):
    def __init__(self, dataset) -> None:
        self.dataset = dataset


def _lose(rank):
    said = []
    data = Counted()
    data.faults.saw(10)
    for index in range(rank + 1):
        data.faults.lose('image', f'{index}.jpg')
    from clipdense.data import faults

    faults.print_log = lambda line, logger, level: said.append(line)
    report_faults(Wrapper(data))
    return said, data.faults.lost


def test_lost_samples_are_summed_over_processes(run_processes):
    line = '3 of 20 images could not be used in the last epoch'
    assert run_processes(_lose) == [([line], 0)] * 2
