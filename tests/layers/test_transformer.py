"""Blocks against PyTorch's own modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from clipdense.layers.activations import activation
from clipdense.layers.attention import SelfAttention
from clipdense.layers.transformer import Block, replace_tokens, run_blocks


@pytest.mark.parametrize('causal', [False, True])
def test_attention_is_pytorchs(causal):
    own, peer = SelfAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        peer.in_proj_weight.copy_(own.qkv.weight)
        peer.in_proj_bias.copy_(own.qkv.bias)
        peer.out_proj.weight.copy_(own.proj.weight)
        peer.out_proj.bias.copy_(own.proj.bias)
    x = torch.randn(2, 5, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(5) if causal else None
    expected = peer(x, x, x, attn_mask=mask, need_weights=False)[0]
    assert_close(own(x, causal), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ('name', 'expected'),
    [('quick_gelu', 1.9357), ('gelu', 1.9545), ('gelu_tanh', 1.9546)],
)
def test_activations_at_two(name, expected):
    """quick: 2 / (1 + exp(-3.404)); gelu: 2 * Phi(2), Phi(2) = 0.97725."""
    assert activation(name)(torch.tensor([2.0])).item() == pytest.approx(expected, abs=2e-4)


def test_unknown_activation():
    with pytest.raises(ValueError, match='unknown activation'):
        activation('relu6')


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match='is not divisible by 3 attention heads'):
        SelfAttention(16, 3)


def test_causal_blocks_do_not_look_ahead():
    blocks = [Block(16, 2, 32) for _ in range(2)]
    x = torch.randn(1, 6, 16)
    changed = x.clone()
    changed[:, 4:] += 1
    before, after = run_blocks(blocks, x, causal=True), run_blocks(blocks, changed, causal=True)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_replace_tokens():
    x = torch.zeros(2, 5, 3)
    got = replace_tokens(x, 1, torch.ones(2, 3))
    assert got.sum(dim=2).tolist() == [[0, 3, 3, 0, 0]] * 2
