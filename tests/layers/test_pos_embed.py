"""Position embeddings against open_clip's resizing."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.layers.pos_embed import resize_positions

TOLERANCE = {'atol': 1e-5, 'rtol': 0}


@pytest.mark.parametrize('grid', [(6, 6), (3, 3), (2, 5)])
def test_image_positions(golden, grid):
    tensors, _ = golden('clip_aux')
    got = resize_positions(tensors['input.pos_embed_4x4'], grid)
    assert_close(got, tensors[f'output.pos_embed_{grid[0]}x{grid[1]}'], **TOLERANCE)


def test_dinos_positions(golden):
    tensors, _ = golden('denseclip_tiny')
    got = resize_positions(tensors['state.visual.positional_embedding'], (6, 10), mode='dino')
    assert_close(got, tensors['output.image.pos_rect'][0], **TOLERANCE)


def test_the_own_grid_is_returned_untouched():
    positions = torch.randn(17, 8)
    assert resize_positions(positions, (4, 4)) is positions


@pytest.mark.parametrize('prefix', [0, 1, 3])
@pytest.mark.parametrize(
    ('mode', 'antialias'), [('bilinear', False), ('bicubic', True), ('nearest-exact', False)]
)
def test_constants_stay_constant(prefix, mode, antialias):
    positions = torch.full((prefix + 16, 2), 0.5)
    got = resize_positions(positions, (7, 3), prefix=prefix, mode=mode, antialias=antialias)
    assert_close(got, torch.full((prefix + 21, 2), 0.5))


def test_no_square():
    with pytest.raises(ValueError, match='15 position embeddings do not form a square'):
        resize_positions(torch.randn(16, 8), (2, 2))
