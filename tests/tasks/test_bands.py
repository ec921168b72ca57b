"""Large images in bands of rows give what the whole image at once gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.structures import ClassEmbeddings
from clipdense.tasks.bands import Rows, assemble, bands, resize, source_rows, upsample_rows
from clipdense.tasks.refine import PAMR
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.vocab.vocabulary import Vocabulary

SIDES = st.integers(1, 40)


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(1, 400))
def test_rows_of_an_upsampling(height, width, new_height, new_width, pixels):
    maps, size = torch.randn(1, 2, height, width), (new_height, new_width)
    expected = F.interpolate(maps, size, mode='bilinear', align_corners=False)
    parts = bands(size, pixels)
    assert [*range(new_height)] == [row for part in parts for row in range(*part)]
    for rows in parts:
        given_rows = rows if (height, width) == size else source_rows(rows, height, new_height)
        some = maps[..., given_rows.top : given_rows.bottom, :]
        found = upsample_rows(some, given_rows, height, size, rows)
        assert_close(found, expected[..., rows.top : rows.bottom, :], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize('size', [(30, 41), (7, 9), (90, 100), (60, 41), (60, 80)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_resizing_in_bands_is_exact(size, layout):
    image = torch.randint(0, 256, (1, 3, 60, 80), dtype=torch.uint8).contiguous(memory_format=layout)[0]
    whole, parts = (resize(image, size, lambda part: part / 255, pixels) for pixels in (10_000, 500))
    assert torch.equal(whole, parts)
    assert_close(whole, F.interpolate(image[None] / 255, size, mode='bilinear', antialias=True)[0])


def test_a_single_band_is_not_copied():
    maps = torch.zeros(4, 5), torch.ones(4, 5)
    assert all(one is other for one, other in zip(assemble((4, 5), [(Rows(0, 4), maps)]), maps, strict=True))


class Patches(SegmentationModel):
    """Embeds patches of four pixels by a fixed matrix."""

    patch_size = 4

    def __init__(self, **settings):
        super().__init__((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), logit_scale=3.0, **settings)
        self.weight = nn.Parameter(torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)))

    def encode_pixels(self, images):
        return F.normalize(F.conv2d(images, self.weight, stride=4), dim=1)

    def classify_pixels(self, features, text):
        return torch.einsum('bdhw,kd->bkhw', features, text)


SETTINGS = {
    'plain': {'slide': Slide(short_side=40)},
    'windows': {'slide': Slide(short_side=40, window=16, stride=8)},
    'windows of the whole size': {'slide': Slide(window=32, stride=16)},
    'views': {'slide': Slide(short_side=32, scales=(0.5, 1.0), flip=True)},
    'refined': {'slide': Slide(short_side=40), 'refiner': PAMR(2, (1, 3))},
    'small classes': {'slide': Slide(short_side=40), 'area_threshold': 0.05},
    'small classes, none': {'slide': Slide(short_side=40), 'area_threshold': 1e-9},
    'improbable': {'slide': Slide(short_side=40), 'background_threshold': 0.2},
}


@pytest.mark.parametrize('setting', SETTINGS)
@pytest.mark.parametrize('joint', [False, True])
def test_masks_do_not_depend_on_the_bands(setting, joint):
    torch.manual_seed(1)
    queries = F.normalize(torch.randn(9, 8), dim=-1)
    image = (
        torch.randint(0, 256, (30, 12, 3), dtype=torch.uint8).repeat_interleave(5, 0).repeat_interleave(8, 1)
    )
    image = image.permute(2, 0, 1)  # (3, 150, 96)
    found = []
    for budget in (1 << 30, 64 * 96 * 40, 64 * 96 * 13):  # one, four and twelve bands
        model = Patches(memory_budget=budget, **SETTINGS[setting]).eval()
        model.joint_over_classes = joint
        names = Vocabulary(tuple('abcdefghi'), background='a')
        model.set_vocabulary(names, ClassEmbeddings(queries, torch.arange(9), 9))
        found.append(model.segment(image))
    normalized = model.data_preprocessor.normalize(image)
    assert torch.equal(model.segment(normalized).classes, found[-1].classes)
    assert len(found[0].classes.unique()) > 1
    for labels in found[1:]:
        assert torch.equal(labels.classes, found[0].classes)
        tolerance = 1e-5 if setting == 'refined' else 1e-6  # affinities of flat parts enlarge rounding
        assert_close(labels.probability, found[0].probability, atol=tolerance, rtol=2 * tolerance)
