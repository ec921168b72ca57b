"""Batches without padding."""

from __future__ import annotations

import pytest
import torch

from clipdense.layers.packing import Packing

LENGTHS = {
    'mixed': ([2, 4, 1], [0, 1, 4, 5, 6, 7, 8], [1, 5, 6]),
    'equal': ([3, 3], [0, 1, 2, 3, 4, 5], [2, 5]),
    'one': ([2], [0, 1], [1]),
}


@pytest.mark.parametrize(('lengths', 'places', 'last'), LENGTHS.values(), ids=LENGTHS)
def test_places_are_counted_through_the_padded_batch(lengths, places, last):
    packing = Packing.of_lengths(torch.tensor(lengths), max(lengths))
    assert packing.places.tolist() == places
    assert packing.last.tolist() == last
    assert packing.shape == (len(lengths), max(lengths))


@pytest.mark.parametrize('lengths', [row[0] for row in LENGTHS.values()], ids=LENGTHS)
def test_unpacked_tokens_come_back_with_zeros_behind(lengths):
    x = torch.randn(len(lengths), max(lengths), 5)
    packing = Packing.of_lengths(torch.tensor(lengths), max(lengths))
    packed = packing.pack(x)
    assert torch.equal(packed, torch.cat([row[:length] for row, length in zip(x, lengths, strict=True)]))
    back = packing.unpack(packed)
    for row, kept, length in zip(back, x, lengths, strict=True):
        assert torch.equal(row[:length], kept[:length])
        assert not row[length:].any()


def test_an_empty_batch_packs_to_nothing():
    packing = Packing.of_lengths(torch.empty(0, dtype=torch.long), 3)
    assert packing.pack(torch.empty(0, 3, 5)).shape == (0, 5)
    assert packing.unpack(torch.empty(0, 5)).shape == (0, 3, 5)
