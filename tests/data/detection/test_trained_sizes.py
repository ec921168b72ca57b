"""Sizes of training images, and the warning of others."""

from __future__ import annotations

import warnings

import pytest
from mmdet.structures import DetDataSample

from clipdense.data.detection.trained_sizes import TrainedSizes
from clipdense.utils.errors import InputError


def meta(height, width, scale=1.0, **more):
    return {'ori_shape': (height, width), 'scale_factor': (scale, scale), **more}


@pytest.mark.parametrize(
    ('batches', 'sides'),
    [
        ([], None),
        ([[meta(96, 64)]], (96, 96)),
        ([[meta(96, 64), meta(50, 80)], [meta(100, 200)]], (80, 200)),
        ([[meta(480, 640, 0.5)]], (320, 320)),  # as large as after the resize
        ([[meta(480, 640, img_shape=(64, 64))]], (640, 640)),  # a crop leaves the size of objects
        ([[{'ori_shape': (30, 20)}]], (30, 30)),
        ([[meta(96, 96), meta(480, 480, question='what?')]], (96, 96)),
        ([[meta(480, 480, question='what?')]], None),
        ([[meta(96, 96), meta(480, 480, description='a cat')]], (96, 96)),
    ],
)
def test_the_range_of_the_longer_sides(batches, sides):
    sizes = TrainedSizes()
    for batch in batches:
        sizes.note([DetDataSample(metainfo=one) for one in batch])
    assert sizes.sides == sides
    assert sizes.entry() == ({} if sides is None else {'image_sides': sides})


@pytest.mark.parametrize(
    ('sides', 'image', 'message'),
    [
        (None, (4000, 3000), None),
        ((96, 96), (192, 10), None),
        ((96, 96), (10, 193), 'longer side of 193 .* trained on 96: .* -o image_size=96 '),
        ((96, 96), (48, 48), None),
        ((96, 96), (47, 47), 'longer side of 47 '),
        ((100, 300), (480, 600), None),
        ((100, 300), (480, 640), 'trained on 100 to 300: .*image_size=300 '),
        ((100, 300), (40, 40), 'image_size=100 '),
    ],
)
def test_images_far_from_the_training_are_told_once(sides, image, message):
    sizes = TrainedSizes(sides)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        for _ in range(3):
            sizes.check(meta(*image))
    assert len(told) == (message is not None)
    if message:
        with pytest.warns(UserWarning, match=message):
            TrainedSizes(sides).check(meta(*image))


@pytest.mark.parametrize('sides', [(0, 5), (9, 5), (5,), 'ab', (1.5, 2.5), (True, True), 7])
def test_a_file_with_another_range_is_refused(sides):
    with pytest.raises(InputError, match='image_sides must be'):
        TrainedSizes(sides)
