"""The base of all models: the steps that the runner calls."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from clipdense.data.preprocessor import DataPreprocessor
from clipdense.tasks.model import Model, total_loss


def make_model(base: type) -> nn.Module:
    """The same weights on any base."""

    class Line(base):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(3, 2)

        def forward(self, images, labels, mode='tensor'):
            scores = self.layer(images)
            if mode == 'loss':
                error = (scores - labels).square()
                return {'near_loss': error.mean(), 'far_loss': error.amax(dim=0), 'score': scores.mean()}
            return list(scores) if mode == 'predict' else scores

    return Line()


def step(base: type, **options):
    model, data = make_model(base), {'images': torch.ones(4, 3), 'labels': torch.arange(8.0).view(4, 2)}
    optimizer = OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **options)
    logged = [dict(model.train_step(data, optimizer)) for _ in range(3)]
    return logged, model.state_dict(), model.val_step(data), model.test_step(data)


@pytest.mark.parametrize('options', [{}, {'accumulative_counts': 2}], ids=['plain', 'accumulation'])
def test_steps_are_those_of_mmengine(options):
    for ours, theirs in zip(step(Model, **options), step(BaseModel, **options), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_batch_may_be_a_tuple():
    model = make_model(Model)
    assert len(model.val_step((torch.ones(4, 3), None))) == 4
    with pytest.raises(TypeError, match='got int'):
        model.val_step(3)


def test_a_model_must_have_forward():
    with pytest.raises(TypeError, match='forward'):
        Model()


def test_initialization_is_left_to_the_model():
    """The runner calls ``init_weights`` of models that have it; the base would reset nothing."""
    assert not hasattr(Model, 'init_weights')


def test_the_default_preprocessor_moves_everything():
    Pair = namedtuple('Pair', 'left right')
    data = {'x': torch.ones(1), 'list': [torch.ones(2), 'word'], 'pair': Pair(torch.ones(3), None)}
    found = nn.Sequential(DataPreprocessor()).to('meta')[0](data)
    assert {found['x'].device.type, found['list'][0].device.type, found['pair'].left.device.type} == {'meta'}
    assert (found['list'][1], found['pair'].right, type(found['pair'])) == ('word', None, Pair)
    assert not DataPreprocessor().state_dict()


class TestTotalLoss:
    def test_only_losses_count(self):
        losses = {'a_loss': torch.tensor([1.0, 3.0]), 'b_loss': torch.tensor(4.0), 'share': torch.tensor(9.0)}
        total, logged = total_loss(losses)
        assert total == 6
        assert {name: float(value) for name, value in logged.items()} == {
            'loss': 6,
            'a_loss': 2,
            'b_loss': 4,
            'share': 9,
        }

    def test_refuses_what_cannot_be_a_loss(self):
        with pytest.raises(TypeError, match="'loss' must be a tensor, got float"):
            total_loss({'loss': 1.0})
        with pytest.raises(ValueError, match=r"'loss' in its name, got \['error'\]"):
            total_loss({'error': torch.tensor(1.0)})
