"""DetPro's losses against the official ones, and against sums written out."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.methods.prompt_learning.detpro_losses import background_loss, frequency_weights
from clipdense.utils.errors import InputError

TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}


@pytest.fixture
def official(golden):
    """Logits, labels, weights, and the official results."""
    tensors = golden('detpro_loss_tiny')[0]
    return tensors['input.logits'], tensors['input.label'], 1 / tensors['input.freq'], tensors


@pytest.mark.parametrize('mode', ['soft', 'hinge'])
def test_the_official_losses(official, mode):
    logits, labels, weight, tensors = official
    logits = logits.clone().requires_grad_()
    loss = background_loss(logits, labels, mode, weight)
    assert_close(loss, tensors[f'output.loss_{mode}'], **TOLERANCE)
    if mode == 'soft':
        loss.backward()
        assert_close(logits.grad, tensors['output.grad_soft'], **TOLERANCE)


def by_hand(logits, labels, mode, weight):
    """Region by region."""
    classes, total, share = len(weight) - 1, 0.0, 0.0
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        background = label == classes
        if mode == 'mean' or (mode == 'mean_background' and background):
            row = torch.cat([row, row.mean()[None]])
        elif mode == 'max':
            row = torch.cat([row, 1 - row.max()[None]])
        probability = row.exp() / row.exp().sum()
        if mode == 'soft' and background:
            loss = -probability.log().mean()
        elif mode == 'hinge' and background:
            loss = sum(max(float(p) - 1 / classes, 0.0) for p in probability)
        elif mode == 'fg_only' and background:
            continue
        else:
            loss = -probability[label].log()
        total, share = total + weight[label] * loss, share + weight[label]
    return total / (len(labels) if mode in ('hinge', 'mean_background') else share)


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('mode', ['soft', 'hinge', 'mean', 'mean_background', 'max', 'learn', 'fg_only'])
def test_each_mode_written_out(mode, weighted):
    labels = torch.tensor([0, 3, 2, 4, 4, 1, 4])
    logits = torch.randn(7, 5 if mode == 'learn' else 4, requires_grad=True)
    weight = torch.rand(5) + 0.5 if weighted else torch.ones(5)
    loss = background_loss(logits, labels, mode, weight if weighted else None)
    assert_close(loss.double(), by_hand(logits.detach(), labels, mode, weight.double()), **TOLERANCE)
    loss.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize('mode', ['soft', 'hinge', 'mean', 'mean_background', 'max', 'fg_only'])
@pytest.mark.parametrize('labels', [[3, 3], [0, 1], []], ids=['background', 'objects', 'nothing'])
def test_batches_of_one_kind(mode, labels):
    logits = torch.randn(len(labels), 3, requires_grad=True)
    loss = background_loss(logits, torch.tensor(labels, dtype=torch.int64), mode)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    if not labels or (mode == 'fg_only' and labels[0] == 3):
        assert loss == 0


def test_half_precision_gives_the_same_loss():
    logits, labels = torch.randn(6, 4).half() * 20, torch.tensor([0, 1, 2, 3, 4, 4])
    assert_close(background_loss(logits, labels), background_loss(logits.float(), labels))


def test_weights_are_inverse_frequencies():
    """By hand: 8 regions; classes with 4, 0 and 1 of them, 3 of background."""
    found = frequency_weights(torch.tensor([0, 0, 0, 0, 2, 3, 3, 3]), 3)
    assert_close(found, torch.tensor([8 / (3 * 4), 0, 8 / 3, 8 / (2 * 3)]))


@pytest.mark.parametrize(
    ('logits', 'labels', 'options', 'message'),
    [
        ((2, 3), [0, 4], {}, 'labels are 0 to 4; they must be from 0 to 2, or 3 for background'),
        ((2, 3), [-1, 0], {}, 'labels are -1 to 0'),
        ((2, 4), [0, 4], {'mode': 'learn'}, 'from 0 to 2, or 3 for background'),
        ((2, 3), [0], {}, r'labels \(N,\), got \(2, 3\) and \(1,\)'),
        ((2, 3), [0, 1], {'mode': 'softer'}, "must be one of soft, .*; got 'softer'"),
        ((2, 3), [0, 1], {'class_weight': torch.ones(3)}, r'class_weight must have 4 values .*, got \(3,\)'),
        ((2, 0), [0, 0], {}, 'there are no classes'),
    ],
)
def test_bad_input(logits, labels, options, message):
    with pytest.raises(InputError, match=message):
        background_loss(torch.zeros(logits), torch.tensor(labels), **options)
