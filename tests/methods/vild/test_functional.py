"""The heads' functions against the official ones, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.methods.vild.functional import (
    class_probabilities,
    distillation_loss,
    ensemble,
    mask_novel,
    region_logits,
    valid_regions,
)
from clipdense.structures import best_of_queries

CASES = ['', 'rand/']
TIGHT = {'atol': 1e-9, 'rtol': 1e-9}


@pytest.fixture(params=CASES, ids=['like clip', 'untrained'])
def case(golden, request):
    """``get('in/cls_feats')``: tensors of one case as double leaves, and the configuration."""
    tensors, meta = golden('vild_heads_tiny')

    def get(name: str) -> torch.Tensor:
        tensor = tensors[request.param + name]
        return tensor.double() if tensor.is_floating_point() else tensor

    return get, meta['config']


def leaves(get, *names):
    return [get(f'in/{name}').requires_grad_() for name in names]


def novel_of(get, config):
    novel = torch.zeros(config['K'], dtype=torch.bool)
    novel[get('in/novel_ids')] = True
    return novel


def text_head(get, config, prefix=''):
    """Features, projection and background as leaves, and the logits."""
    feats, weight, bias, background = leaves(get, 'cls_feats', 'proj_weight', 'proj_bias', 'bg_embed')
    embeddings = F.linear(feats.flatten(0, 1), weight, bias)
    logits = region_logits(embeddings, get('in/text_embeds'), background, config['temperature'])
    return (feats, weight, bias, background), embeddings, logits


def test_logits(case):
    get, config = case
    _, embeddings, logits = text_head(get, config)
    assert_close(F.normalize(embeddings, dim=-1), get('out/region_embed'), **TIGHT)
    assert_close(logits, get('out/logits'), **TIGHT)
    masked, official = mask_novel(logits, novel_of(get, config)), get('out/logits_train')
    assert torch.equal(masked == -torch.inf, official < -1e20)
    assert_close(masked[masked.isfinite()], official[official > -1e20], **TIGHT)


@pytest.mark.parametrize('masked', [True, False])
def test_classification_loss_and_its_gradients(case, masked):
    get, config = case
    parts, _, logits = text_head(get, config)
    prefix = '' if masked else 'nomask_'
    loss = F.cross_entropy(
        mask_novel(logits, novel_of(get, config)) if masked else logits, get('in/labels').flatten()
    )
    loss.backward()
    assert_close(loss, get(f'out/{prefix}loss_cls')[0], **TIGHT)
    for part, name in zip(parts, ('feats', 'proj_weight', 'proj_bias', 'bg_embed'), strict=True):
        found = part.grad.flatten(0, 1) if name == 'feats' else part.grad
        assert_close(found, get(f'out/{prefix}grad_cls_{name}'), **TIGHT)


@pytest.mark.parametrize('branch', ['', 'ens_'], ids=['one branch', 'ensemble'])
def test_distillation_and_its_gradients(case, branch):
    get, config = case
    names = ('img_proj_weight', 'img_proj_bias') if branch else ('proj_weight', 'proj_bias')
    feats, weight, bias = leaves(get, 'distill_feats', *names)
    embeddings = F.linear(feats.flatten(0, 1), weight, bias)
    valid = valid_regions(get('in/distill_boxes').flatten(0, 1))
    assert torch.equal(valid, get('in/distill_valid').flatten().bool())
    loss = distillation_loss(embeddings, get('in/teacher_embeds').flatten(0, 1), valid)
    assert_close(loss, get(f'out/{branch}loss_distill_unweighted')[0], **TIGHT)
    for wrong in ('per_image_mean', 'all_rois_mean'):
        assert (loss - get(f'out/loss_distill_{wrong}_WRONG')[0]).abs() > 1e-3
    (config['distill_weight'] * loss).backward()
    assert_close(feats.grad.flatten(0, 1), get(f'out/{branch}grad_distill_feats'), **TIGHT)
    assert_close(weight.grad, get(f'out/{branch}grad_distill_proj_weight'), **TIGHT)
    assert_close(bias.grad, get(f'out/{branch}grad_distill_proj_bias'), **TIGHT)


def test_scores(case):
    get, config = case
    _, _, logits = text_head(get, config)
    text = class_probabilities(logits)
    assert_close(text, get('out/p_cls'), **TIGHT)
    assert_close(text, get('out/scores_vild'), **TIGHT)
    assert_close(get('out/img_logits').softmax(dim=-1), get('out/p_img'), **TIGHT)
    scores = ensemble(text, get('out/p_img'), novel_of(get, config))
    assert_close(scores, get('out/scores_ensemble'), **TIGHT)


def test_nothing_to_distill_is_a_loss_of_zero():
    embeddings = torch.randn(3, 4, requires_grad=True)
    loss = distillation_loss(embeddings, torch.randn(3, 4), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not embeddings.grad.any()
    assert distillation_loss(torch.zeros(0, 4), torch.zeros(0, 4)).item() == 0


def test_distillation_by_hand():
    """(1, 0) against (0, 1) is 2, equal ones are 0: 1 on average; the third does not count."""
    student = torch.tensor([[2.0, 0.0], [0.0, 5.0], [1.0, 0.0]])
    teacher = torch.tensor([[0.0, 3.0], [0.0, 1.0], [-1.0, 0.0]])
    assert distillation_loss(student, teacher, torch.tensor([True, True, False])).item() == pytest.approx(1)


def test_the_best_word_speaks_for_its_class():
    logits = torch.tensor([[1.0, 5.0, 3.0], [2.0, 0.0, 4.0]])
    best = best_of_queries(logits, torch.tensor([0, 0, 1]), 2)
    assert best.tolist() == [[5, 3], [2, 4]]


def test_cosines_are_not_rounded_under_autocast():
    """At a temperature of 0.01, bf16 would move logits by a tenth."""
    torch.manual_seed(0)
    regions, text, background = torch.randn(5, 64), torch.randn(7, 64), torch.randn(64)
    expected = region_logits(regions, text, background, 0.01)
    with torch.autocast('cpu', torch.bfloat16):
        assert_close(region_logits(regions, text, background, 0.01), expected)
