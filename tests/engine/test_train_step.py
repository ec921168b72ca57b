"""Cached accumulation equals the whole batch, alone and in two processes.

Reference: every micro-batch encoded with its graph kept, one loss over all of them, one backward.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clipdense.clip.losses import contrastive_loss, sigmoid_loss
from clipdense.engine import (
    DistributedModel,
    PrecisionOptimWrapper,
    cached_step,
    run_pass,
    split_batch,
)

SIZES = {'one': [12], 'even': [4, 4, 4], 'uneven': [5, 5, 2], 'single pairs': [1] * 12}


class TwoTowers(nn.Module):
    """Two small encoders with dropout, a scale, a bias, and a parameter that nothing uses."""

    def __init__(self, dropout: float = 0.0, loss: str = 'softmax') -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 5))
        self.text = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 5))
        self.logit_scale = nn.Parameter(torch.tensor(1.5))
        self.logit_bias = nn.Parameter(torch.tensor(-2.0))
        self.unused = nn.Parameter(torch.ones(3))
        self.softmax = loss == 'softmax'

    def encode(self, batch):
        return F.normalize(self.image(batch['images']), dim=-1), F.normalize(
            self.text(batch['texts']), dim=-1
        )

    def loss(self, images, texts):
        if self.softmax:
            return contrastive_loss(images, texts, self.logit_scale.exp())
        return sigmoid_loss(images, texts, self.logit_scale.exp(), self.logit_bias)

    def train_step(self, data, optim_wrapper):
        with optim_wrapper.optim_context(self):
            parts = split_batch(data, 2)
            loss = cached_step(self.encode, self.loss, parts, optim_wrapper.backward, self)
        optim_wrapper.step()
        return {'loss': loss}


class PlainTwoTowers(TwoTowers):
    def train_step(self, data, optim_wrapper):
        with optim_wrapper.optim_context(self):
            loss = run_pass(self, lambda: self.loss(*self.encode(data)))
        optim_wrapper.backward(loss)
        optim_wrapper.step()
        return {'loss': loss.detach()}


def make_data(pairs: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        'images': torch.randn(pairs, 6, generator=generator, dtype=torch.float64),
        'texts': torch.randn(pairs, 4, generator=generator, dtype=torch.float64),
    }


def cut(data, sizes):
    columns = {key: value.split(sizes) for key, value in data.items()}
    return [dict(zip(columns, parts, strict=True)) for parts in zip(*columns.values(), strict=True)]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_gradients(ours, expected, tolerance=1e-12):
    assert set(ours) == set(expected)
    for name, value in expected.items():
        error = (ours[name] - value).abs().max() / value.abs().max()
        assert error < tolerance, f'{name}: {error:.1e}'


@pytest.mark.parametrize('dropout', [0.0, 0.5])
@pytest.mark.parametrize('loss', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('sizes', SIZES.values(), ids=SIZES)
def test_equals_the_whole_batch(sizes, loss, dropout):
    model, batches = TwoTowers(dropout, loss).double(), cut(make_data(), sizes)
    torch.manual_seed(3)
    columns = zip(*[model.encode(batch) for batch in batches], strict=True)
    expected_loss = model.loss(*map(torch.cat, columns))
    expected_loss.backward()
    expected, after = gradients(model), torch.get_rng_state()
    model.zero_grad()

    torch.manual_seed(3)
    ours = cached_step(model.encode, model.loss, batches)
    assert ours == expected_loss.detach()
    assert not ours.requires_grad
    assert_equal_gradients(gradients(model), expected)
    assert 'logit_scale' in expected
    assert 'unused' not in expected
    assert torch.equal(torch.get_rng_state(), after), 'the generator continues as after one pass'


def test_without_randomness_it_is_the_plain_step():
    model, data = TwoTowers().double(), make_data()
    model.loss(*model.encode(data)).backward()
    expected = gradients(model)
    model.zero_grad()
    cached_step(model.encode, model.loss, split_batch(data, 5))
    assert_equal_gradients(gradients(model), expected)


def test_dict_of_losses_sums_only_losses():
    model, batches = TwoTowers().double(), cut(make_data(), [6, 6])
    out = cached_step(
        model.encode, lambda *e: {'loss_a': model.loss(*e), 'accuracy': torch.tensor(0.5)}, batches
    )
    assert set(out) == {'loss_a', 'accuracy'}
    assert not out['loss_a'].requires_grad


def test_frozen_tower_gets_no_gradient():
    model = TwoTowers().double()
    model.image.requires_grad_(False)
    cached_step(model.encode, model.loss, cut(make_data(), [6, 6]))
    assert {name.split('.')[0] for name in gradients(model)} == {'text', 'logit_scale'}


def test_autocast_weights_get_gradients():
    """Casts made without a graph are not reused in the pass that needs one."""
    model = TwoTowers()
    data = {key: value.float() for key, value in make_data().items()}
    with torch.autocast('cpu', torch.bfloat16):
        cached_step(model.encode, model.loss, split_batch(data, 4))
    missing = {name for name, p in model.named_parameters() if p.grad is None}
    assert missing == {'unused', 'logit_bias'}


@pytest.mark.parametrize(
    ('size', 'lengths'), [(4, [2, 3]), (3, [2, 3]), (2, [1, 2, 2]), (5, [5]), (9, [5]), (1, [1] * 5)]
)
def test_split_batch(size, lengths):
    parts = split_batch({'a': torch.arange(5), 'b': list('vwxyz')}, size)
    assert [len(part['a']) for part in parts] == lengths
    assert [letter for part in parts for letter in part['b']] == list('vwxyz')


def test_split_batch_refuses_unequal_entries():
    with pytest.raises(ValueError, match='equally long'):
        split_batch({'a': [1], 'b': [1, 2]}, 1)


def _steps(rank, kind, loss):
    torch.manual_seed(rank)  # unequal weights: process 0's win
    model = DistributedModel(kind(loss=loss).double())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    wrapper = PrecisionOptimWrapper(optimizer=optimizer, precision='fp32')
    data = {key: value[rank * 6 : rank * 6 + 6] for key, value in make_data().items()}
    model.train_step(data, wrapper)
    numbers = {name: grad.numpy() for name, grad in gradients(model.module).items()}
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
    return numbers, weights


@pytest.mark.parametrize('loss', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('kind', [PlainTwoTowers, TwoTowers], ids=['plain', 'cached'])
def test_two_processes_give_the_whole_batch_gradient(kind, loss, run_processes):
    torch.manual_seed(0)
    model, data = kind(loss=loss).double(), make_data()
    if loss == 'softmax':
        expected_loss = model.loss(*model.encode(data))
    else:  # the sum over all pairs, divided by the number of images
        images, texts = model.encode(data)
        logits = model.logit_scale.exp() * images @ texts.T + model.logit_bias
        expected_loss = -F.logsigmoid((2 * torch.eye(12) - 1) * logits).sum() / 12
    expected_loss.backward()
    (first, weights), (second, other_weights) = run_processes(_steps, kind, loss)
    for name, value in gradients(model).items():
        assert torch.allclose(torch.from_numpy(first[name]), value, rtol=1e-12, atol=1e-14), name
        assert (first[name] == second[name]).all(), name
    assert (weights == other_weights).all(), 'one step later the processes still agree'
