"""Losses against official values and against numbers worked out by hand."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.clip.losses import contrastive_loss, distillation_loss, multi_label_loss, sigmoid_loss

TOLERANCE = {'atol': 1e-5, 'rtol': 0}


def test_contrastive_loss_is_the_official_one(golden):
    tensors, _ = golden('clip_aux')
    images = tensors['input.image_embed'].requires_grad_()
    texts = tensors['input.text_embed'].requires_grad_()
    loss = contrastive_loss(normalize(images, dim=-1), normalize(texts, dim=-1), tensors['input.logit_scale'])
    assert_close(loss, tensors['output.clip_loss'][0], **TOLERANCE)


def test_sigmoid_loss_is_the_official_one(golden):
    tensors, _ = golden('clip_aux')
    images = normalize(tensors['input.image_embed'], dim=-1).requires_grad_()
    texts = normalize(tensors['input.text_embed'], dim=-1).requires_grad_()
    loss = sigmoid_loss(images, texts, 10.0, -10.0)
    assert_close(loss, tensors['output.siglip_loss_t10_b-10'][0], **TOLERANCE)
    loss.backward()
    assert_close(images.grad, tensors['grad.siglip.image_norm'], **TOLERANCE)
    assert_close(texts.grad, tensors['grad.siglip.text_norm'], **TOLERANCE)


def test_distillation_loss_is_the_official_one(golden):
    tensors, _ = golden('clip_aux')
    images, texts = (normalize(tensors[f'input.{kind}_embed'], dim=-1) for kind in ('image', 'text'))
    teacher = tensors['input.teacher_image_norm'], tensors['input.teacher_text_norm']
    loss = distillation_loss(images, texts, tensors['input.logit_scale'], *teacher, 20.0)
    assert_close(loss, tensors['output.distill_loss'][0], **TOLERANCE)


# Two orthogonal pairs: matching cosine 1, the other 0.
@pytest.mark.parametrize('scale', [1.0, 14.0])
def test_by_hand(scale):
    pairs = torch.eye(2)
    assert contrastive_loss(pairs, pairs, scale).item() == pytest.approx(log(1 + exp(-scale)), abs=1e-6)
    # each image: one match at scale + bias, one mismatch at bias
    bias = -2.0
    expected = log(1 + exp(-(scale + bias))) + log(1 + exp(bias))
    assert sigmoid_loss(pairs, pairs, scale, bias).item() == pytest.approx(expected, rel=1e-5)


def test_a_random_batch_costs_the_logarithm_of_its_size():
    same = normalize(torch.ones(8, 4), dim=-1)
    assert contrastive_loss(same, same, 10.0).item() == pytest.approx(log(8), rel=1e-5)


# Two images with two prompts each, all orthogonal but for the image's own: matches at 1, others at 0.
OWN = torch.eye(2)[:, None].expand(2, 2, 2)


@pytest.mark.parametrize(
    ('form', 'to_texts'),
    [
        ('mean', log(2 * exp(3) + 2) - 3),  # each prompt alone against all four
        ('sum', log(2 * exp(3) + 2) - log(2 * exp(3))),  # both together
    ],
)
def test_multi_label_loss_by_hand(form, to_texts):
    to_images = log(exp(3) + 1) - 3
    loss = multi_label_loss(torch.eye(2), OWN, 3.0, form)
    assert loss.item() == pytest.approx((to_texts + to_images) / 2, rel=1e-5)


def test_one_prompt_is_the_contrastive_loss():
    images, texts = (normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    for form in ('mean', 'sum'):
        assert_close(
            multi_label_loss(images, texts[:, None], 7.0, form), contrastive_loss(images, texts, 7.0)
        )


def test_a_phrase_of_two_captions_is_right_for_both():
    """Images and prompts all alike: every answer is as good, and with shared phrases all are right."""
    images, prompts = torch.ones(4, 1), torch.ones(4, 2, 1)
    phrases = torch.zeros(4, 2, dtype=torch.int64)
    assert multi_label_loss(images, prompts, 5.0).item() == pytest.approx((log(8) + log(4)) / 2)
    shared = multi_label_loss(images, prompts, 5.0, 'sum', phrases)
    assert shared.item() == pytest.approx(0, abs=1e-6)
    distinct = torch.arange(8).view(4, 2)
    assert_close(
        multi_label_loss(images, prompts, 5.0, phrases=distinct), multi_label_loss(images, prompts, 5.0)
    )


def test_patches_are_pooled_by_log_sum_exp():
    """One patch that matches is enough, whatever the others show."""
    patches = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])  # (2, 2, 2)
    prompts = torch.eye(2)[:, None]
    match, miss = log(exp(4) + 1), log(2)
    expected = log(1 + exp(miss - match))
    assert multi_label_loss(patches, prompts, 4.0).item() == pytest.approx(expected, rel=1e-5)
    alone = multi_label_loss(patches[:, :1], prompts, 4.0)
    assert_close(alone, multi_label_loss(patches[:, 0], prompts, 4.0))


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match='mean'):
        multi_label_loss(torch.eye(2), OWN, 1.0, 'max')
