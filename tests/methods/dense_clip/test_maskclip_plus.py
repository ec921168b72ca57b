"""A student learns its teacher's masks; what is labelled by whom."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.methods.dense_clip.maskclip_plus import MaskCLIPPlus, PyramidStudent
from clipdense.methods.dense_clip.segmenter import DenseCLIP
from clipdense.structures import ClassEmbeddings, SegmentationSample
from clipdense.vocab.vocabulary import Vocabulary

TINY = ClipSize(VitSize(32, 8, 32, 2, 2, 32, 16), TextSize(32, 1, 1, 32, 16))
SIDE = 32


class Out(nn.Module):
    """torchvision's segmentation networks return a dict."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 4, 4)

    def forward(self, images):
        return {'out': self.conv(images)}


def plus(novel=(), query_class=(0, 1, 2), **settings) -> MaskCLIPPlus:
    torch.manual_seed(0)
    model = MaskCLIPPlus(DenseCLIP(build_clip(TINY)), Out(), **settings)
    names = Vocabulary(('a', 'b', 'c'), novel=frozenset(novel))
    queries = F.normalize(torch.randn(len(query_class), 16), dim=-1)
    model.set_vocabulary(names, ClassEmbeddings(queries, torch.tensor(query_class), 3))
    return model.train()


def batch(masks=None):
    images = torch.randn(2, 3, SIDE, SIDE)
    samples = [SegmentationSample('', (SIDE, SIDE), mask) for mask in masks or (None, None)]
    return images, samples


def upsampled(model, images):
    with torch.no_grad():
        logits = model.pixel_logits(images, model.queries) * model.logit_scale
    return F.interpolate(logits, (SIDE, SIDE), mode='bilinear')


def teacher_logits(model, images):
    model.teacher.queries = model.queries
    return upsampled(model.teacher, images)


def test_the_loss_is_cross_entropy_against_the_teacher():
    model, (images, samples) = plus(), batch()
    got = model.loss(images, samples)
    expected = F.cross_entropy(upsampled(model, images), teacher_logits(model, images).argmax(dim=1))
    assert_close(got['loss'], expected)
    assert got['labelled'] == 1


def test_only_the_student_learns():
    model = plus()
    model.loss(*batch())['loss'].backward()
    assert all(parameter.grad is not None for parameter in model.student.parameters())
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    assert not model.teacher.training
    assert model.student.training


def test_improbable_pixels_are_left_out():
    model, (images, samples) = plus(confidence=0.9), batch()
    probability, labels = teacher_logits(model, images).softmax(dim=1).max(dim=1)
    sure = probability >= 0.9
    assert 0 < sure.sum() < sure.numel(), 'the case must be one in which some are'
    got = model.loss(images, samples)
    assert_close(got['labelled'], sure.float().mean())
    labels[~sure] = 255
    assert_close(got['loss'], F.cross_entropy(upsampled(model, images), labels, ignore_index=255))


def test_nothing_to_learn_is_no_error():
    got = plus(confidence=1.1).loss(*batch())
    assert (got['loss'], got['labelled']) == (0, 0)


def test_after_a_while_the_student_labels_for_itself():
    model, (images, samples) = plus(guided_steps=1), batch()
    model.loss(images, samples)
    logits = upsampled(model, images)
    assert_close(model.loss(images, samples)['loss'], F.cross_entropy(logits, logits.argmax(dim=1)))
    assert model.step == 2
    assert 'step' in model.state_dict(), 'a resumed run must go on labelling for itself'


@pytest.mark.parametrize('novel', [(), ('b', 'c')])
def test_given_labels_are_kept_and_novel_classes_are_for_the_rest(novel):
    mask = torch.full((SIDE, SIDE), 255)
    mask[:10] = 0
    model, (images, samples) = plus(novel, use_masks=True), batch([mask, mask])
    labels = model._labels(teacher_logits(model, images), samples)
    assert (labels[:, :10] == 0).all()
    allowed = {1, 2} if novel else {0, 1, 2}
    assert set(labels[:, 10:].unique().tolist()) <= allowed


def test_synonyms_are_one_class():
    model, images = plus(query_class=(0, 0, 1, 2, 2)), torch.randn(2, 3, SIDE, SIDE)
    index = torch.tensor([0, 0, 1, 2, 2])
    with torch.no_grad():
        small = model.pixel_logits(images, model.queries) * model.logit_scale
    best = torch.stack([small[:, index == k].amax(dim=1) for k in range(3)], dim=1)
    assert_close(
        model._class_logits(model, images, (SIDE, SIDE)), F.interpolate(best, (SIDE, SIDE), mode='bilinear')
    )


def test_it_segments_as_any_segmenter():
    labels = plus().eval().segment(torch.randn(3, 40, 56))
    assert labels.classes.shape == (40, 56)


def test_pyramid_student():
    student = PyramidStudent('resnet10t', 16)
    assert student(torch.randn(1, 3, 32, 64)).shape == (1, 16, 16, 32)


def test_a_student_learns_to_say_what_its_teacher_says():
    model, (images, samples) = plus(), batch()
    optimizer = torch.optim.Adam(model.student.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(images, samples)['loss']
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
