"""What every segmenter does with its class scores: views, chunks, refinement, small classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.structures import ClassEmbeddings
from clipdense.tasks import segmentation
from clipdense.tasks.refine import PAMR
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.vocab.vocabulary import Vocabulary

PATCH = 4


class Colors(SegmentationModel):
    """A pixel's embedding is the color of its patch; classes are colors."""

    patch_size = PATCH

    def __init__(self, **settings):
        super().__init__((0, 0, 0), (1, 1, 1), **{'logit_scale': 10.0, **settings})
        self.anchor = nn.Parameter(torch.zeros(1))
        self.batches = []

    def encode_pixels(self, images):
        self.batches.append(len(images))
        return F.avg_pool2d(images, PATCH)

    def classify_pixels(self, features, text):
        return torch.einsum('bdhw,kd->bkhw', features, text)


def colors(classes=3, background=None, query_class=None, **settings) -> Colors:
    model = Colors(**settings)
    query_class = torch.arange(classes) if query_class is None else torch.tensor(query_class)
    names = tuple(f'class {index}' for index in range(classes))
    queries = torch.eye(3)[: len(query_class)] if len(query_class) <= 3 else torch.randn(len(query_class), 3)
    embeddings = ClassEmbeddings(queries, query_class, classes)
    model.set_vocabulary(Vocabulary(names, background=background), embeddings)
    return model.eval()


def test_views_are_averaged_before_the_maximum():
    """By hand: each size, plain and mirrored, upsampled to the result."""
    image = torch.rand(3, 24, 32)
    slide = Slide(scales=(0.5, 1.0), flip=True)
    got = colors(slide=slide).segment(image)
    total = torch.zeros(3, 24, 32)
    for size in ((12, 16), (24, 32)):
        seen = (
            F.interpolate(image[None], size, mode='bilinear', antialias=True)
            if size[0] == 12
            else image[None]
        )
        for mirror in (False, True):
            pooled = F.avg_pool2d(seen.flip(-1) if mirror else seen, PATCH)
            scores = F.interpolate(10 * pooled, (24, 32), mode='bilinear')[0]
            total += (scores.flip(-1) if mirror else scores) / 4
    assert torch.equal(got.classes, total.argmax(dim=0))
    assert_close(got.probability, total.softmax(dim=0).amax(dim=0))


def test_a_symmetric_model_does_not_care_for_mirrors():
    image = torch.rand(3, 24, 32)
    plain, flipped = (colors(slide=Slide(flip=flip)).segment(image) for flip in (False, True))
    assert_close(plain.probability, flipped.probability)


@pytest.mark.parametrize('budget', [1, 1 << 16, 1 << 30])
def test_refined_scores_do_not_depend_on_the_chunks(budget):
    torch.manual_seed(3)
    refiner = {'type': PAMR, 'iterations': 3, 'dilations': (1, 2)}
    image = torch.rand(3, 32, 40)
    model = colors(20, refiner=refiner, memory_budget=budget)
    got = model.segment(image, (48, 60))
    pooled = F.avg_pool2d(image[None], PATCH)
    scores = 10 * torch.einsum('bdhw,kd->bkhw', pooled, model.queries)
    scores = F.interpolate(scores, (48, 60), mode='bilinear')[0]
    seen = F.interpolate(image[None], (48, 60), mode='bilinear')[0]
    scores = PAMR(3, (1, 2))(seen, scores)
    assert torch.equal(got.classes, scores.argmax(dim=0))
    assert_close(got.probability, scores.softmax(dim=0).amax(dim=0))


def stripes(*widths) -> torch.Tensor:
    """Columns of the first colors, so wide, in patches; a pixel of the next color is second best."""
    parts = [
        torch.eye(3)[index % 3].view(3, 1, 1).expand(3, 8, PATCH * width)
        for index, width in enumerate(widths)
    ]
    return torch.cat(parts, dim=-1) * 0.8 + torch.tensor([0.1, 0.05, 0.15]).view(3, 1, 1)


@pytest.mark.parametrize(
    ('threshold', 'background', 'expected'),
    [
        (0.0, 'class 0', {0, 1, 2}),
        (0.3, 'class 0', {0, 1}),  # 2 patches of 10 that are not background are 20 %
        (0.2, 'class 0', {0, 1}),  # no more than the threshold is too little
        (0.19, 'class 0', {0, 1, 2}),
        (0.9, 'class 0', {0}),
        (0.9, None, {0, 1, 2}),
    ],
)
@pytest.mark.parametrize('budget', [1, 1 << 30])
def test_small_classes_are_given_up(threshold, background, expected, budget):
    model = colors(background=background, area_threshold=threshold, memory_budget=budget)
    labels = model.segment(stripes(4, 8, 2), (2, 14))  # a pixel a patch
    assert set(labels.classes.unique().tolist()) == expected


def test_pixels_of_small_classes_go_to_the_next_best_by_the_official_rule():
    """SCLIP: probabilities of small classes become 0, then argmax; a class's is that of its best synonym."""
    query_class = [0, 0, 1, 2, 2, 3, 4]
    model = colors(5, 'class 0', query_class, area_threshold=0.2, logit_scale=3.0)
    image = torch.randn(3, 32, 32)
    got = model.segment(image)
    scores = 3 * torch.einsum('bdhw,kd->bkhw', F.avg_pool2d(image[None], PATCH), model.queries)
    shares = F.interpolate(scores, (32, 32), mode='bilinear')[0].softmax(dim=0)
    classes = torch.stack(
        [shares[[at for at, own in enumerate(query_class) if own == k]].amax(0) for k in range(5)]
    )
    area = F.one_hot(classes.argmax(dim=0), 5)[..., 1:].sum(dim=(0, 1))
    small = area <= 0.2 * area.sum()
    assert (area[small] > 0).any(), 'the case must be one in which the rule acts'
    classes[1:][small] = 0
    assert torch.equal(got.classes, classes.argmax(dim=0))
    assert_close(got.probability, classes.amax(dim=0))


@pytest.mark.parametrize(
    ('batch', 'budget', 'expected'),
    [(None, 1 << 30, [15]), (None, 1, [1] * 15), (4, 1, [4, 4, 4, 3]), (None, 4 * 768 * 64, [4, 4, 4, 3])],
    ids=['all fit', 'none fits', 'asked for', 'four fit'],
)
def test_windows_go_together_as_the_budget_allows(batch, budget, expected):
    model = colors(slide=Slide(window=8, stride=4, batch=batch), memory_budget=budget)
    model.segment(torch.rand(3, 16, 24))
    assert model.batches == expected


@pytest.mark.parametrize(
    ('sizes', 'batches'),
    [
        ([(24, 32)], [6, 6, 1, 1]),  # at full size 2 x 3 windows of 16, at half size the whole image
        ([(24, 32), (24, 32)], [10, 2, 10, 2, 2, 2]),
        ([(24, 32), (8, 12), (24, 32), (8, 12)], [2, 10, 2, 2, 10, 2, 2, 2, 2, 2]),
    ],
)
def test_images_share_batches_of_windows_and_get_what_each_gets_alone(sizes, batches):
    images = [torch.rand(3, *size) for size in sizes]
    model = colors(slide=Slide(window=16, stride=8, batch=10, scales=(1.0, 0.5), flip=True))
    alone = [model.encode_image(image) for image in images]
    model.batches.clear()
    together = model.encode_images(images)
    assert model.batches == batches
    for image, one, other in zip(images, alone, together, strict=True):
        assert_close(one.image, other.image)
        for first, second in zip(one.views, other.views, strict=True):
            assert (first.size, first.windows, first.mirrored) == (
                second.size,
                second.windows,
                second.mirrored,
            )
            assert_close(torch.cat(first.features), torch.cat(second.features))
        size = (image.shape[-2], image.shape[-1])
        assert_close(model.classify_image(one, size), model.classify_image(other, size))


def test_logits_at_full_size_stay_within_the_budget(monkeypatch):
    """500 classes on 64 x 64 pixels are 8 MB; a quarter of one is allowed."""
    seen = []

    def spy(logits, *rest, merge=segmentation.merge_windows):
        merged = merge(logits, *rest)
        seen.append(merged.numel() * 4)
        return merged

    monkeypatch.setattr(segmentation, 'merge_windows', spy)
    slide = Slide(window=8, stride=4, scales=(1.0, 2.0))
    model = colors(
        500, 'class 0', slide=slide, memory_budget=1 << 18, refiner=PAMR(1, (1,)), area_threshold=0.01
    )
    model.segment(torch.rand(3, 32, 32), (64, 64))
    assert max(seen) * 4 <= 1 << 18
    assert sum(seen) > 500 * 64 * 64 * 4
