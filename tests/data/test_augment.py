"""Strong augmentation: reproducible, of the right size, and each operation does something."""

from __future__ import annotations

import random

import pytest
import torch
from PIL import Image

from clipdense.data.augment import OPERATIONS, StrongAugment, erase
from clipdense.utils.errors import InputError

IMAGE = torch.randint(60, 200, (3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('size', [(40, 30), (5, 200), (1, 1)], ids=str)
def test_any_image_gives_a_square(size):
    augment = StrongAugment(16)
    for seed in range(20):
        pixels = augment(Image.new('RGB', size, 'red'), random.Random(seed))
        assert pixels.shape == (3, 16, 16)
        assert pixels.dtype == torch.uint8


def test_it_depends_on_the_generator_alone():
    augment = StrongAugment(16, erase=1.0)
    first, second = (augment(IMAGE, random.Random(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(IMAGE, random.Random(4)))


@pytest.mark.parametrize('name', OPERATIONS)
@pytest.mark.parametrize('strength', [0.0, 0.9, 1.0])
def test_operations(name, strength):
    before = IMAGE.clone()
    changed = OPERATIONS[name](before, strength, random.Random(1))
    assert changed.shape == IMAGE.shape
    assert changed.dtype == torch.uint8
    assert torch.equal(before, IMAGE), 'the image that came is left alone'
    if strength and name != 'identity':
        assert not torch.equal(changed, IMAGE)


def test_operations_that_are_named():
    same = StrongAugment(24, scale=(1.0, 1.0), flip=0.0, erase=0.0, among=['identity'], probability=1.0)
    plain = StrongAugment(24, scale=(1.0, 1.0), flip=0.0, erase=0.0, operations=0)
    assert torch.equal(same(IMAGE, random.Random(3)), plain(IMAGE, random.Random(3)))
    with pytest.raises(InputError, match="has no operation 'rotated'"):
        StrongAugment(24, among=['rotated'])


@pytest.mark.parametrize('seed', range(5))
def test_one_rectangle_is_erased(seed):
    erased = (erase(IMAGE, random.Random(seed)) != IMAGE).any(dim=0)
    rows, columns = erased.any(dim=1), erased.any(dim=0)
    area = rows.sum() * columns.sum() / 24**2
    assert 0.01 < area < 0.4
    assert erased[rows][:, columns].float().mean() > 0.9, 'a full rectangle'


def test_images_can_be_left_unmirrored():
    augment = StrongAugment(24, scale=(1.0, 1.0), operations=0, flip=0.0, erase=0.0)
    assert any(torch.equal(augment(IMAGE, random.Random(seed)), IMAGE) for seed in range(30))
    mirrored = StrongAugment(24, scale=(1.0, 1.0), operations=0, flip=1.0, erase=0.0)
    assert any(torch.equal(mirrored(IMAGE, random.Random(seed)), IMAGE.flip(-1)) for seed in range(30))
