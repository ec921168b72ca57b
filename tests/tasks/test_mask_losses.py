"""Losses of pixels against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.tasks.mask_losses import pixel_cross_entropy


def test_the_loss_is_the_mean_over_labelled_pixels():
    """By hand: two pixels, two classes, log 2 and softplus(-2); the third is ignored."""
    logits = torch.tensor([[[[0.0, 2.0, 9.0]], [[0.0, 0.0, 0.0]]]])
    loss = pixel_cross_entropy(logits, torch.tensor([[[1, 0, 255]]]))
    expected = (torch.tensor(2.0).log() + F.softplus(torch.tensor(-2.0))) / 2
    assert_close(loss, expected)


@pytest.mark.parametrize(
    ('balance', 'weights'),
    [(0.0, (1, 1, 1, 1)), (1.0, (1 / 3, 1 / 3, 1 / 3, 1)), (0.5, (3**-0.5,) * 3 + (1,))],
)
def test_balance_weighs_classes(balance, weights):
    """Three pixels of class 0 and one of class 1: each pixel weighs n ** -balance."""
    logits, labels = torch.randn(1, 3, 1, 4), torch.tensor([[[0, 0, 0, 1]]])
    each = F.cross_entropy(logits, labels, reduction='none')[0, 0]
    expected = (each * torch.tensor(weights)).sum() / sum(weights)
    assert_close(pixel_cross_entropy(logits, labels, balance=balance), expected)
