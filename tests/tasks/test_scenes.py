"""Images that are encoded in bands of rows give what the whole image at once gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clipdense.structures import ClassEmbeddings
from clipdense.tasks.bands import assemble
from clipdense.tasks.refine import PAMR
from clipdense.tasks.scenes import Scene, TensorRows
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary


class Patches(SegmentationModel):
    """Embeds patches of four pixels by a fixed matrix, and counts what it encodes."""

    patch_size = 4

    def __init__(self, **settings):
        super().__init__((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), logit_scale=3.0, **settings)
        self.weight = nn.Parameter(torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
        self.encoded: list[tuple[int, ...]] = []
        names = Vocabulary(tuple('abcdefghi'), background='a')
        queries = F.normalize(torch.randn(9, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
        self.set_vocabulary(names, ClassEmbeddings(queries, torch.arange(9), 9))

    def encode_pixels(self, images):
        self.encoded.append(tuple(images.shape))
        return F.normalize(F.conv2d(images, self.weight, stride=4), dim=1)

    def classify_pixels(self, features, text):
        return torch.einsum('bdhw,kd->bkhw', features, text)


class RecordedRows(TensorRows):
    """Records the largest number of rows that is read at a time."""

    most = 0

    def read(self, rows):
        self.most = max(self.most, rows.bottom - rows.top)
        return super().read(rows)


IMAGE = torch.randint(0, 256, (150, 96, 3), dtype=torch.uint8).permute(2, 0, 1)
SETTINGS = {
    'whole image': {'slide': Slide(short_side=40)},
    'windows': {'slide': Slide(window=16, stride=8, batch=7)},
    'windows without overlap': {'slide': Slide(window=16, stride=16)},
    'windows of odd sizes': {'slide': Slide(window=20, stride=13, batch=3)},
    'windows of a resized image': {'slide': Slide(short_side=40, window=16, stride=8)},
    'one row of windows': {'slide': Slide(window=120, stride=60)},
    'views': {'slide': Slide(window=16, stride=8, scales=(0.5, 1.0, 1.3), flip=True)},
    'refined': {'slide': Slide(window=16, stride=8), 'refiner': PAMR(2, (1, 3))},
    'refined and resized': {'slide': Slide(short_side=40, window=16), 'refiner': PAMR(2, (1, 3))},
    'improbable': {'slide': Slide(window=16, stride=8), 'background_threshold': 0.2},
}


@pytest.mark.parametrize('setting', SETTINGS)
@pytest.mark.parametrize('joint', [False, True])
@pytest.mark.parametrize('budget', [1 << 30, 64 * 96 * 40, 64 * 96 * 13])  # one, four and twelve bands
def test_equal_to_the_whole_image_to_the_last_bit(setting, joint, budget):
    model = Patches(memory_budget=budget, **SETTINGS[setting]).eval()
    model.joint_over_classes = joint
    expected = model.segment(IMAGE)
    whole = list(model.encoded)
    model.encoded.clear()
    scene, size = Scene(model, RecordedRows(IMAGE)), (150, 96)
    found = [
        (rows, model.classify_rows(scene.encode(rows), size, rows)[:2]) for rows in model.result_bands(size)
    ]
    classes, probability = assemble(size, found)
    assert torch.equal(classes, expected.classes)
    assert torch.equal(probability, expected.probability)
    assert len(classes.unique()) > 1
    assert sorted(model.encoded) == sorted(whole)  # each window once, in the same batches


def test_a_few_rows_are_read_at_a_time():
    model = Patches(memory_budget=64 * 96 * 10, slide=Slide(window=16, stride=8, batch=8)).eval()
    source = RecordedRows(IMAGE)
    scene = Scene(model, source)
    for rows in model.result_bands((150, 96)):
        encoded = scene.encode(rows)
        assert len(encoded.views[0].features) <= 8
    assert source.most <= 32


@pytest.mark.parametrize(
    ('settings', 'most', 'message'),
    [
        ({'slide': Slide(window=16)}, 1000, 'a larger stride, resize the image'),
        ({'slide': Slide(window=2)}, 1 << 30, 'smaller than a patch'),
        ({'area_threshold': 0.1}, 1 << 30, 'area_threshold needs the whole image'),
    ],
)
def test_what_cannot_be_done_is_refused(settings, most, message):
    model = Patches(**settings).eval()
    rows = model.result_bands((150, 96))[0]
    with pytest.raises(InputError, match=message):
        model.classify_rows(Scene(model, TensorRows(IMAGE), most).encode(rows), (150, 96), rows)
