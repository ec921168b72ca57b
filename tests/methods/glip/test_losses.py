"""Losses, assignment and anchors against microsoft/GLIP (``glip_loss_tiny``, ``glip_region_word_tiny``)."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.methods.glip.assignment import BACKGROUND, assign
from clipdense.methods.glip.boxes import decode, encode, grid_anchors
from clipdense.methods.glip.criterion import grounding_losses
from clipdense.methods.glip.losses import centerness, giou_loss, region_word_loss, token_focal_loss
from clipdense.methods.glip.structures import HeadOutput, Targets
from clipdense.methods.glip.v2.contrast import region_word_targets

STRIDES = (8, 16, 32, 64, 128)
CLOSE = dict(atol=1e-6, rtol=1e-5)


@pytest.fixture(scope='module')
def case(golden):
    tensors, meta = golden('glip_loss_tiny')
    tensors = {name: one.clone() for name, one in tensors.items()}
    anchors = grid_anchors([tuple(size) for size in meta['level_sizes']], STRIDES)
    counts = [3, 1]
    maps = tensors['input.positive_map'].bool().float().split(counts)
    targets = [Targets(tensors[f'input.boxes{i}'], maps[i]) for i in range(2)]
    return tensors, meta, anchors, targets


def output_of(tensors, grad=False):
    levels = {kind: [tensors[f'input.{kind}{i}'].clone() for i in range(5)] for kind in ('dot', 'reg', 'ctr')}
    for tensor in (one for level in levels.values() for one in level):
        tensor.requires_grad_(grad)
    return HeadOutput(levels['dot'], levels['reg'], levels['ctr'])


def test_anchors(case):
    tensors, _, anchors, _ = case
    for level, found in enumerate(anchors):
        assert_close(found, tensors[f'output.anchors{level}'], rtol=0, atol=0)
    assert anchors[0][0].tolist() == [-28, -28, 35, 35]


def test_assignment(case):
    """An anchor has a box, and its tokens, exactly where the official code gives it a label."""
    tensors, meta, anchors, targets = case
    positives = 0
    for image, target in enumerate(targets):
        owner = assign(anchors, target.boxes)
        matched = owner != BACKGROUND
        assert_close(matched, tensors[f'output.cls_labels{image}'] > 0)
        assert_close(target.positive[owner[matched]], tensors[f'output.token_labels{image}'][matched])
        every = torch.cat(anchors)[matched]
        deltas = encode(target.boxes[owner[matched]], every)
        assert_close(deltas, tensors[f'output.reg_targets{image}'][matched], **CLOSE)
        positives += int(matched.sum())
    assert positives == meta['positives']


def test_losses_and_gradients(case):
    tensors, _, anchors, targets = case
    output = output_of(tensors, grad=True)
    losses = grounding_losses(output, anchors, targets, tensors['input.text_masks'])
    assert_close(losses['loss_token'], tensors['output.loss_token_without_noobj'], **CLOSE)
    assert_close(losses['loss_box'], tensors['output.loss_reg'], **CLOSE)
    assert_close(losses['loss_centerness'], tensors['output.loss_centerness'], **CLOSE)
    sum(losses.values()).backward()
    found = torch.cat([level.grad for level in output.logits], dim=1)
    assert_close(found, tensors['grad.loss_token_without_noobj.dot'], **CLOSE)
    for level in range(5):
        assert_close(output.deltas[level].grad, tensors[f'grad.reg{level}'], **CLOSE)
        assert_close(output.centerness[level].grad, tensors[f'grad.ctr{level}'], **CLOSE)


def test_centerness_targets(case):
    tensors, _, anchors, targets = case
    found = []
    for target in targets:
        owner = assign(anchors, target.boxes)
        kept = owner >= 0
        middle = torch.cat(anchors)[kept]
        found.append(centerness((middle[:, :2] + middle[:, 2:]) / 2, target.boxes[owner[kept]]))
    assert_close(torch.cat(found), tensors['output.centerness_targets'], **CLOSE)


@pytest.mark.parametrize(
    ('name', 'options'),
    [('plain', {}), ('masked', {}), ('alpha_off', dict(alpha=None)), ('soft', {})],
)
def test_token_focal_loss(golden, name, options):
    tensors, _ = golden('glip_loss_tiny')
    logits = tensors['input.tok.logits'].clone().requires_grad_()
    targets = tensors['input.tok.soft_targets' if name == 'soft' else 'input.tok.targets']
    mask = tensors['input.text_masks'].bool() if name in ('masked', 'soft') else torch.ones(2, 12).bool()
    kept = mask[:, None].expand_as(logits)
    loss = token_focal_loss(logits[kept], targets[kept], **options)
    assert_close(loss, tensors[f'output.tok.{name}'], **CLOSE)
    loss.backward()
    assert_close(logits.grad, tensors[f'grad.tok.{name}'], **CLOSE)


def test_images_without_boxes(case):
    """All anchors are negatives of all tokens; box losses are 0, and everything has a gradient."""
    tensors, _, anchors, _ = case
    output = output_of(tensors, grad=True)
    none = [Targets(torch.zeros(0, 4), torch.zeros(0, 12))] * 2
    losses = grounding_losses(output, anchors, none, tensors['input.text_masks'])
    assert losses['loss_box'] == losses['loss_centerness'] == 0
    kept = tensors['input.text_masks'].bool()[:, None].expand(2, 341, 12)
    logits = torch.cat(output.logits, dim=1)[kept]
    assert_close(losses['loss_token'], token_focal_loss(logits, torch.zeros_like(logits)))
    sum(losses.values()).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for kind in output[:3] for one in kind)


@pytest.mark.parametrize(
    ('found', 'boxes', 'expected'),
    [
        ([0, 0, 4, 4], [0, 0, 4, 4], 0.0),
        ([0, 0, 2, 4], [2, 0, 4, 4], 1.0),  # they touch and fill their hull
        ([0, 0, 2, 2], [0, 0, 4, 2], 0.5),
        ([3, 3, 1, 1], [3, 3, 5, 5], 1 + (4 - 4) / 4),  # a box turned inside out has no area
    ],
    ids=['the same', 'side by side', 'half', 'inside out'],
)
def test_giou_by_hand(found, boxes, expected):
    loss = giou_loss(torch.tensor([found]).float(), torch.tensor([boxes]).float(), torch.tensor([1.0]))
    assert_close(loss, torch.tensor(expected), atol=1e-5, rtol=0)


def test_box_encoding(golden):
    tensors, _ = golden('glip_scores_tiny')
    anchors, boxes = tensors['input.anchors0'], tensors['input.coder.boxes']
    deltas = encode(boxes, anchors)
    assert_close(deltas, tensors['output.coder.encoded'], **CLOSE)
    assert_close(decode(1.7 * deltas, anchors), tensors['output.coder.decoded'], atol=1e-4, rtol=1e-5)
    assert_close(decode(deltas, anchors), boxes, atol=1e-4, rtol=1e-5)


@pytest.fixture
def contrast(golden):
    """Arguments of the loss for regions of the released code, and everything that needs a gradient."""
    tensors, meta = golden('glip_region_word_tiny')
    inputs = {
        name.split('.', 1)[1]: one.clone().requires_grad_(one.is_floating_point())
        for name, one in tensors.items()
        if name.startswith(('state.', 'input.visual', 'input.text')) and 'masks' not in name
    }
    visual = torch.cat([inputs[f'visual{level}'] for level in range(5)], dim=1)  # (B, A, C)
    anchors = grid_anchors([tuple(size) for size in meta['level_sizes']], STRIDES)
    maps = tensors['input.positive_map'].bool().float().split([3, 2])
    image, features, label, own = [], [], [], []
    total = 0
    for index in range(2):
        owner = assign(anchors, tensors[f'input.boxes{index}'])
        total += int((owner >= 0).sum())
        assert (owner >= 0).nonzero()[:, 0].tolist() == tensors[
            f'output.all_positive_anchors{index}'
        ].tolist()
        kept = tensors[f'output.positive_anchors{index}']  # the released code leaves out the first box
        image.append(torch.full_like(kept, index))
        features.append(visual[index, kept])
        label.append(tensors[f'input.od_labels{index}'][owner[kept]])
        own.append(maps[index][owner[kept]])
    of_token = torch.full((2, 256), -1)
    for index in range(2):
        known = tensors[f'input.od_label_of_token{index}'].long()
        of_token[index, : len(known)] = known
    targets = region_word_targets(torch.cat(image), torch.cat(label), torch.cat(own), of_token)
    return tensors, inputs, torch.cat(features), targets, total


def test_region_word_loss(contrast):
    tensors, inputs, features, targets, total = contrast
    side = 'shallow_contrastive_projection'
    regions = F.linear(features, inputs[f'{side}_image.weight'], inputs[f'{side}_image.bias'])
    words = F.linear(inputs['text'], inputs[f'{side}_text.weight'], inputs[f'{side}_text.bias'])
    similarity = F.normalize(regions, dim=-1) @ F.normalize(words, dim=-1).flatten(0, 1).mT
    similarity = similarity / inputs['shallow_log_scale'].exp()
    loss = region_word_loss(similarity, targets, tensors['input.text_masks'].flatten().bool()) / total
    assert_close(loss, tensors['output.loss_shallow_contrastive'], **CLOSE)
    loss.backward()
    for name, tensor in inputs.items():
        assert_close(tensor.grad, tensors[f'grad.{name}'], **CLOSE)
