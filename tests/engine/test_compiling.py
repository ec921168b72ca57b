"""Compiled blocks: the same training, and none if the compiler fails."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from clipdense.engine import Runner
from clipdense.engine.compiling import read_compile
from clipdense.tasks.model import Model
from clipdense.utils.errors import InputError


class Deep(Model):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.last = nn.Linear(3, 1)

    def forward(self, images, labels, mode='tensor'):
        for block in self.blocks:
            images = torch.tanh(block(images))
        return {'loss': (self.last(images) - labels).square().mean()}


CALLS = []


def working(graph, inputs):
    CALLS.append('working')
    return graph.forward


def failing(graph, inputs):
    CALLS.append('failing')
    raise RuntimeError('no compiler here')


def run(make_config, **entries):
    runner = Runner.from_cfg(make_config(steps=3, model={'type': Deep}, **entries))
    runner.train()
    return runner.model.state_dict()


@pytest.mark.parametrize('backend', [working, failing])
def test_the_weights_are_those_without_it(make_config, backend, tmp_path):
    CALLS.clear()
    torch._dynamo.reset()
    expected = run(make_config, work_dir='plain')
    assert_close(run(make_config, work_dir='compiled', compile={'backend': backend}), expected)
    assert set(CALLS) == {backend.__name__}
    assert len(CALLS) <= (1 if backend is failing else 2), 'alike blocks share their code, a failure ends it'
    log = next((tmp_path / 'compiled').rglob('*.log')).read_text()
    assert log.count('torch.compile failed, so the model is trained without it') == (backend is failing)
    assert ('no compiler here' in log) == (backend is failing)


def test_an_unknown_backend(make_config, tmp_path):
    run(make_config, compile={'backend': 'nonsense'})
    assert 'torch.compile failed' in next((tmp_path / 'run').rglob('*.log')).read_text()


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ('yes', "compile must be true, false or dict.*got 'yes'"),
        ({'mod': 1}, 'compile.mod: unknown entry.*mode'),
    ],
)
def test_wrong_settings(value, message):
    with pytest.raises(InputError, match=message):
        read_compile(value)


@pytest.mark.parametrize('value', [None, False])
def test_not_asked_for(value):
    assert read_compile(value) is None
