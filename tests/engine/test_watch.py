"""What each line of the log says of throughput, waiting, memory, gradients and utilization."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from clipdense.engine import CheckpointHook, ProgressHook, watch
from clipdense.engine.launch import train
from clipdense.engine.watch import peak_flops


def run(make_config, resume=False, **settings):
    return train(Config(make_config(**settings)), resume=resume, log='none')


def lines(runner):
    return [json.loads(line) for line in (Path(runner.work_dir) / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.parametrize(
    ('device', 'peak'),
    [
        ('NVIDIA H100 80GB HBM3', 989e12),
        ('NVIDIA H100 PCIe', 756e12),
        ('NVIDIA A100-SXM4-40GB', 312e12),
        ('NVIDIA A10G', 70e12),
        ('NVIDIA A10', 125e12),
        ('Tesla T4', 65e12),
        ('NVIDIA GeForce RTX 4090', 165.2e12),
        ('NVIDIA GeForce GTX 1080', None),
    ],
)
def test_peaks_of_gpus(device, peak):
    assert peak_flops(device) == peak


def test_what_each_line_has(make_config):
    first, second, third = lines(run(make_config))
    assert [one['samples_seen'] for one in (first, second, third)] == [4, 8, 12]
    for one in (first, second, third):
        assert one['images_per_second_per_process'] == pytest.approx(one['images_per_second'])
        assert 0 <= one['data_wait'] <= 1
        assert one['memory_gb'] > 0
        assert one['grad_norm'] > 0
        assert 'flops_utilization' not in one


def test_evaluations_are_not_time_that_waits_for_data(make_config, monkeypatch):
    """Only what the loop waits for a batch is."""
    clock = iter(range(10_000))
    monkeypatch.setattr('clipdense.engine.loops.time.monotonic', lambda: next(clock))
    found = lines(run(make_config, val_dataloader=None))
    assert found[0]['data_wait'] < 1


def test_utilization_where_the_peak_is_known(make_config, monkeypatch):
    monkeypatch.setattr(watch, 'peak_flops', lambda device: 1e9)
    forward = 2 * (3 * 4 + 4)  # multiply and add of two linear layers
    backward = 2 * (3 * 4 + 4 + 4)  # of all weights, and of the input of the last layer
    for one in lines(run(make_config)):
        expected = one['images_per_second'] * (forward + backward) / 1e9
        assert one['flops_utilization'] == pytest.approx(expected, rel=1e-3)


def test_samples_seen_after_resuming(make_config):
    run(make_config, steps=4)
    assert lines(run(make_config, steps=6, resume=True))[-1]['samples_seen'] == 12


def test_the_norm_is_that_of_the_gradients(make_config):
    """Of the step of the line, before clipping; it changes nothing."""
    plain = run(make_config, work_dir='a')
    optim = make_config()['optim_wrapper']
    loose = run(make_config, work_dir='b', optim_wrapper={**optim, 'clip_grad': {'max_norm': 1e9}})
    tight = run(make_config, work_dir='c', optim_wrapper={**optim, 'clip_grad': {'max_norm': 1e-3}})
    assert lines(plain)[-1]['grad_norm'] == pytest.approx(lines(loose)[-1]['grad_norm'], rel=1e-5)
    assert lines(tight)[0]['grad_norm'] > 1e-2
    for one, two in zip(plain.model.parameters(), loose.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_samples_of_each_source_are_counted_once(make_config, tiny):
    """Over epochs, and after resuming from a step between two lines; nothing is counted again."""
    asked = []

    class Mixed(tiny.Stream):
        mixture, batches_per_epoch = 'a 1, b 3', 5

        def drawn(self, epoch, first, last, num_workers):
            asked.append((epoch, first, last))
            return {'a': last - first, 'b': 3 * (last - first)}

    def go(steps, **own):
        loader = {'dataset': {'type': Mixed}, 'batch_size': 2}
        hooks = {
            'logger': {'type': ProgressHook, 'interval': 4},
            'checkpoint': {'type': CheckpointHook, 'interval': 3, 'max_keep': -1},
        }
        return lines(run(make_config, steps=steps, train_dataloader=loader, default_hooks=hooks, **own))

    found = go(13)
    assert [(one['step'], one['seen/a'], one['seen/b']) for one in found] == [
        (step, step, 3 * step) for step in (4, 8, 12, 13)
    ]
    assert asked == [(0, 0, 4), (0, 4, 5), (1, 0, 3), (1, 3, 5), (2, 0, 2), (2, 2, 3)]
    asked.clear()
    again = go(13, resume=Path(make_config()['work_dir']) / 'step_9.pth')[len(found) :]
    assert [(one['step'], one['seen/a']) for one in again] == [(12, 12), (13, 13)]
    assert asked == [(1, 3, 5), (2, 0, 2), (2, 2, 3)]
