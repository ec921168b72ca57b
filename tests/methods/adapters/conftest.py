"""Labeled data that a mean color tells apart, and a tiny CLIP."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize

COLORS = {'cat': (220, 20, 20), 'dog': (20, 220, 20), 'hot_dog': (20, 20, 220)}


@pytest.fixture(scope='session')
def clip():
    torch.manual_seed(0)
    text = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=16)
    vit = VitSize(image_size=16, patch_size=4, width=32, layers=2, num_heads=2, mlp_width=32, embed_dim=16)
    return build_clip(ClipSize(vit, text)).eval()


def noisy(color, size, rng):
    return np.clip(np.array(color) + rng.normal(0, 20, (*size, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope='session')
def pets(tmp_path_factory):
    """A folder of class folders with six images each."""
    root, rng = tmp_path_factory.mktemp('pets'), np.random.default_rng(0)
    for name, color in COLORS.items():
        (root / name).mkdir()
        for number in range(6):
            Image.fromarray(noisy(color, (20, 24), rng)).save(root / name / f'{number}.png')
    return root


@pytest.fixture(scope='session')
def voc(tmp_path_factory):
    """Six images in the layout of PASCAL VOC, with masks and boxes: a square of another class on a ground."""
    root, rng = tmp_path_factory.mktemp('voc'), np.random.default_rng(0)
    for folder in (
        'JPEGImages',
        'SegmentationClass',
        'Annotations',
        'ImageSets/Segmentation',
        'ImageSets/Main',
    ):
        (root / folder).mkdir(parents=True)
    (root / 'classes.txt').write_text('\n'.join(COLORS))
    colors = list(COLORS.values())
    for number in range(6):
        ground, square = number % 3, (number + 1) % 3
        mask = np.full((32, 32), ground, np.uint8)
        mask[8:24, 8:24] = square
        mask[:4] = 255
        image = noisy(colors[ground], (32, 32), rng)
        image[8:24, 8:24] = noisy(colors[square], (16, 16), rng)
        Image.fromarray(image).save(root / f'JPEGImages/{number}.png')
        Image.fromarray(mask).save(root / f'SegmentationClass/{number}.png')
        (root / f'Annotations/{number}.xml').write_text(
            '<annotation><size><width>32</width><height>32</height></size><object>'
            f'<name>{list(COLORS)[square]}</name><difficult>0</difficult><bndbox><xmin>9</xmin><ymin>9</ymin>'
            '<xmax>24</xmax><ymax>24</ymax></bndbox></object></annotation>'
        )
    for kind in ('Segmentation', 'Main'):
        (root / f'ImageSets/{kind}/train.txt').write_text('0\n1\n2\n')
        (root / f'ImageSets/{kind}/val.txt').write_text('3\n4\n5\n')
    return root
