"""The training halves are where their publishers put them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipdense.data.segmentation.published.training import BenchmarkTraining
from clipdense.utils.errors import InputError


@pytest.mark.parametrize(
    ('name', 'image', 'mask', 'label', 'expected'),
    [
        ('ade20k', 'images/training/a.jpg', 'annotations/training/a.png', 1, 0),
        (
            'cityscapes',
            'leftImg8bit/train/x/x_leftImg8bit.png',
            'gtFine/train/x/x_gtFine_labelTrainIds.png',
            1,
            1,
        ),
        ('coco_stuff', 'images/train2017/1.jpg', 'annotations/train2017/1_labelTrainIds.png', 170, 170),
        ('voc21', 'JPEGImages/2007_1.jpg', 'SegmentationClass/2007_1.png', 20, 20),
    ],
)
def test_images_are_found(tmp_path, name, image, mask, label, expected):
    for path, mode in ((image, 'RGB'), (mask, 'L')):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3) if mode == 'RGB' else (4, 4), label, np.uint8)).save(
            tmp_path / path
        )
    folder = tmp_path / 'ImageSets' / 'Segmentation'
    folder.mkdir(parents=True)
    (folder / 'train.txt').write_text('2007_1\n')
    dataset = BenchmarkTraining(name, tmp_path, partial=True)
    assert len(dataset) == 1
    assert dataset[0]['samples'].mask.unique().tolist() == [expected]


def test_others_have_none(tmp_path):
    with pytest.raises(InputError, match=r"no training split for dataset 'ade'; .* Did you mean 'ade20k'"):
        BenchmarkTraining('ade', tmp_path)
