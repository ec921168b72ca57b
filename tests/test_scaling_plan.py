"""The formulas of docs/scaling.md against what torch counts on real models."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize

sys.path.insert(0, str(Path(__file__).parents[1]))
from tools import scaling_plan

IMAGE = VitSize(image_size=32, patch_size=8, width=48, layers=3, num_heads=3, mlp_width=144, embed_dim=24)
TEXT = TextSize(width=32, layers=2, num_heads=2, mlp_width=128, embed_dim=24)
SIZE = ClipSize(IMAGE, TEXT)


def counted(function) -> int:
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):  # the others are not counted
        function()
    return counter.get_total_flops()


def captions(pairs: int, tokens: int = scaling_plan.CAPTION_TOKENS) -> torch.Tensor:
    ids = torch.zeros(pairs, 77, dtype=torch.int64)
    ids[:, tokens - 1] = TEXT.vocab_size - 1
    return ids


def test_operations_of_the_towers_are_those_that_torch_counts():
    model = build_clip(SIZE)
    with torch.no_grad():
        image = counted(lambda: model.encode_image(torch.randn(2, 3, 32, 32)))
        text = counted(lambda: model.encode_text(captions(2)))
    assert image / 2 == scaling_plan.tower_operations(IMAGE)
    assert text / 2 == scaling_plan.tower_operations(TEXT, scaling_plan.CAPTION_TOKENS)


def test_the_backward_pass_takes_twice_the_forward_pass():
    model = build_clip(SIZE)

    def step():
        images, texts = model(torch.randn(2, 3, 32, 32), captions(2))
        (images.sum() + texts.sum()).backward()

    # images have no gradient, so the first layer takes one pass less
    first = 2 * 16 * 3 * 8**2 * 48
    assert counted(step) / 2 == scaling_plan.pair_operations(SIZE) - first


@pytest.mark.parametrize('checkpointing', [False, True])
def test_bytes_of_a_pair_grow_with_the_blocks(checkpointing):
    """Two and three blocks say what six keep."""
    deep = replace(SIZE, image=replace(IMAGE, layers=6), text=replace(TEXT, layers=5))
    predicted = scaling_plan.saved_bytes(deep, torch.float32, checkpointing)
    model = build_clip(deep)
    model.set_gradient_checkpointing(checkpointing)
    kept = [
        sum(scaling_plan.kept_by_graph(model, tower, pairs, torch.float32) for tower in ('image', 'text'))
        for pairs in (1, 2)
    ]
    assert predicted == kept[1] - kept[0]


def test_checkpointing_keeps_less_and_bf16_half():
    plain = scaling_plan.saved_bytes(SIZE, torch.float32)
    assert scaling_plan.saved_bytes(SIZE, torch.float32, checkpointing=True) < plain / 3
    assert 0.4 * plain < scaling_plan.saved_bytes(SIZE, torch.bfloat16) < 0.8 * plain


# 3 GPUs, 2 pairs of each, 5 numbers: worked out by counting messages of a ring
@pytest.mark.parametrize(
    ('sent', 'expected'),
    [
        (scaling_plan.gradient_bytes(30, 3), 2 * 2 * 10 * 4),  # two rounds of two parts of 10 numbers
        (scaling_plan.softmax_bytes(2, 3, 5), 2 * 2 * 10 * 4 + 2 * 4 * 10 * 4),
        (scaling_plan.ring_bytes(2, 3, 5), (2 + 3) * 10 * 4),  # texts two hops, their gradients three
        (scaling_plan.ring_bytes(2, 1, 5), 0),
    ],
)
def test_bytes_that_are_sent(sent, expected):
    assert sent == pytest.approx(expected)


def test_the_tables_are_printed(capsys):
    scaling_plan.main([])
    printed = capsys.readouterr().out
    for name in scaling_plan.MODELS:
        assert printed.count(f'| {name} |') >= 4
