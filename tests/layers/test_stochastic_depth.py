"""Stochastic depth against torchvision's, its rates by depth, and blocks that have it."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import stochastic_depth

from clipdense.layers.packing import Packing
from clipdense.layers.stochastic_depth import depth_rates, drop_branch
from clipdense.layers.transformer import Block
from clipdense.utils.errors import InputError


@pytest.mark.parametrize(
    ('last', 'layers', 'expected'),
    [(0.1, 3, [0.0, 0.05, 0.1]), (0.2, 2, [0.0, 0.2]), (0.0, 2, [0.0, 0.0]), (0.3, 1, [0.0]), (0.3, 0, [])],
)
def test_rates_grow_linearly(last, layers, expected):
    assert depth_rates(last, layers) == pytest.approx(expected)


@pytest.mark.parametrize('rate', [1.0, -0.1, True, '0.1', None, float('nan')])
def test_rates_that_cannot_be(rate):
    with pytest.raises(InputError, match='drop_path must be at least 0 and below 1'):
        depth_rates(rate, 2)


def test_random_numbers_are_those_of_torchvision():
    x = torch.randn(16, 3, 4)
    torch.manual_seed(1)
    found = drop_branch(x, 0.3)
    torch.manual_seed(1)
    assert_close(found, stochastic_depth(x, 0.3, 'row'))
    assert 0 < (found == 0).flatten(1).all(dim=1).sum() < 16


def test_the_mean_over_drops_is_the_branch():
    torch.manual_seed(0)
    x = torch.randn(1, 5)
    assert_close(drop_branch(x.expand(20_000, 5), 0.25).mean(dim=0), x[0], atol=0.03, rtol=0)


def test_a_block_drops_branches_of_whole_sequences_in_training_only():
    torch.manual_seed(0)
    block, x = Block(8, 2, 16, drop_path=0.5), torch.randn(400, 3, 8)
    plain = Block(8, 2, 16)
    plain.load_state_dict(block.state_dict())
    assert torch.equal(block.eval()(x), plain(x))
    changed = (block.train()(x) != x).flatten(1).any(dim=1).float().mean()
    assert changed == pytest.approx(0.75, abs=0.07), 'a quarter loses both branches'
    block.drop_path = 0.0
    assert torch.equal(block(x), plain(x))


def test_packed_sequences_are_refused():
    packing = Packing.of_lengths(torch.tensor([2, 3]), 3)
    with pytest.raises(ValueError, match=r'drop_path needs sequences'):
        Block(8, 2, 16, drop_path=0.5)(torch.randn(5, 8), packing=packing)
