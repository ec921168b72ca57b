"""Every dataset in miniature, in the layout and the file formats in which it is published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdense.utils.image_io import mask_to_image


def make_image(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size[::-1], 80).convert('RGB').save(path)


def gray(path: Path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)


def palette(path: Path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask_to_image(np.array(values)).save(path)


def listed(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(names) + '\n')


def voc(root: Path) -> None:
    for name in ('2007_000033', '2007_000042', '2007_000061'):
        make_image(root / f'JPEGImages/{name}.jpg', (2, 3))
    palette(root / 'SegmentationClass/2007_000033.png', [[0, 1, 255], [20, 15, 0]])
    palette(root / 'SegmentationClass/2007_000042.png', [[8, 8, 8], [0, 0, 12]])
    listed(root / 'ImageSets/Segmentation/val.txt', '2007_000033')
    listed(root / 'ImageSets/Segmentation/train.txt', '2007_000042')


def context(root: Path) -> None:
    from pycocotools import mask as run_lengths

    make_image(root / 'JPEGImages/2008_000002.jpg', (2, 3))
    parts = [  # category, mask; later ones lie on top
        (2, [[1, 1, 1], [0, 0, 0]]),
        (284, [[0, 0, 1], [0, 0, 0]]),
        (458, [[0, 0, 0], [1, 0, 0]]),
    ]
    annotations = []
    for category, mask in parts:
        coded = run_lengths.encode(np.asfortranarray(mask, np.uint8))
        coded['counts'] = coded['counts'].decode()
        annotations.append({'image_id': 2008000002, 'category_id': category, 'segmentation': coded})
    images = [
        {'image_id': number, 'file_name': f'{name}.jpg', 'phase': phase, 'height': 2, 'width': 3}
        for number, name, phase in [(2008000002, '2008_000002', 'val'), (2008000003, '2008_000003', 'train')]
    ]
    content = {'images': images, 'annos_segmentation': annotations}
    (root / 'trainval_merged.json').write_text(json.dumps(content))


def coco(root: Path) -> None:
    for name, values in {
        '000000000139': [[0, 10, 12], [24, 255, 181]],
        '000000000285': [[89, 91, 64], [91, 91, 66]],
    }.items():
        make_image(root / f'images/val2017/{name}.jpg', (2, 3))
        gray(root / f'annotations/val2017/{name}.png', values)


def cityscapes(root: Path) -> None:
    name = 'frankfurt/frankfurt_000000_000294'
    make_image(root / f'leftImg8bit/val/{name}_leftImg8bit.png', (2, 3))
    gray(root / f'gtFine/val/{name}_gtFine_labelIds.png', [[7, 0, 33], [26, 4, 24]])
    gray(root / f'gtFine/val/{name}_gtFine_instanceIds.png', [[7, 0, 33], [26, 4, 24]])


def ade20k(root: Path) -> None:
    make_image(root / 'images/validation/ADE_val_00000001.jpg', (2, 3))
    gray(root / 'annotations/validation/ADE_val_00000001.png', [[0, 1, 150], [2, 2, 13]])


def ade20k_full(root: Path) -> None:
    folder = root / 'images/ADE/validation/urban/street'
    for number, size in ((1, (2, 3)), (2, (600, 1000))):
        make_image(folder / f'ADE_val_0000000{number}.jpg', size)
        colors = np.zeros((*size, 3), np.uint8)
        colors[:] = 110, 162, 7  # 11 * 256 + 162 = 2978: wall; blue numbers objects
        colors[0, 0] = 10, 56, 0  # 312: building
        colors[0, 1] = 0, 1, 0  # 1: none of the 847
        colors[1, 2] = 120, 76, 9  # 3148: adding machine, the last class
        Image.fromarray(colors).save(folder / f'ADE_val_0000000{number}_seg.png')


PLACES = {
    'voc21': ('VOCdevkit/VOC2012', voc),
    'context60': ('VOCdevkit/VOC2010', context),
    'coco_stuff': ('coco_stuff164k', coco),
    'cityscapes': ('cityscapes', cityscapes),
    'ade20k': ('ade/ADEChallengeData2016', ade20k),
    'ade20k_full': ('ADE20K_2021_17_01', ade20k_full),
}


@pytest.fixture(scope='session')
def published(tmp_path_factory):
    """The folder of all datasets, as downloaded."""
    root = tmp_path_factory.mktemp('published')
    for place, make in PLACES.values():
        (root / place).mkdir(parents=True)
        make(root / place)
    return root


@pytest.fixture
def data(published, tmp_path):
    """A copy of it that a test may change."""
    return Path(shutil.copytree(published, tmp_path / 'data'))
