"""The image tower: grouping by hand, any number of stages and groups, any image."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.methods.groupvit.encoder import GroupVitEncoder
from clipdense.methods.groupvit.grouping import AssignBlock, gumbel_noise, straight_through
from clipdense.methods.groupvit.sizes import GroupVitImageSize, GroupVitSize, StageSize


def by_hand(block):
    """Queries, keys, values and the output as they come."""
    width = block.q.in_features
    for linear, weight in ((block.q, torch.eye(width)), (block.proj, torch.eye(width))):
        linear.weight.data, linear.bias.data = weight, torch.zeros(width)
    block.kv.weight.data, block.kv.bias.data = torch.eye(width).repeat(2, 1), torch.zeros(2 * width)
    return block.eval()


def test_a_group_is_the_sum_of_its_tokens_over_their_number_plus_one():
    """Tokens 0 and 1 go to group 0, token 2 to group 1, none to group 2, which gathers zeros."""
    queries = 5 * torch.eye(3)[None]
    x = torch.tensor([[[1.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
    groups, assignment = by_hand(AssignBlock(3))(queries, x)
    assert assignment.used.tolist() == [[[1, 1, 0], [0, 0, 1], [0, 0, 0]]]
    assert_close(groups, torch.tensor([[[4 / 3, 0, 0], [0, 2.0, 0], [0, 0, 0]]]))


def test_soft_assignment_shares_every_token():
    queries, x = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    block = by_hand(AssignBlock(4, 'soft'))
    groups, assignment = block.train()(queries, x)
    assert_close(assignment.used, assignment.soft)
    assert_close(assignment.soft.sum(dim=1), torch.ones(2, 5))
    logits = queries @ x.mT / 2
    soft = logits.softmax(dim=1)
    assert_close(groups, soft @ x / (soft.sum(-1, keepdim=True) + 1))


def test_the_argmax_has_the_gradient_of_the_softmax():
    logits = torch.randn(1, 3, 4, requires_grad=True)
    weights = torch.randn(1, 3, 4)
    (straight_through(logits.softmax(1)) * weights).sum().backward()
    hard = logits.grad.clone()
    logits.grad = None
    (logits.softmax(1) * weights).sum().backward()
    assert_close(hard, logits.grad)
    assert straight_through(torch.ones(1, 3, 2) / 3)[0, :, 0].tolist() == [1, 0, 0], 'of equals the first'


def test_noise_makes_draws_from_the_softmax():
    logits = torch.tensor([0.1, 0.6, 0.3]).log().expand(20_000, -1)
    drawn = (logits + gumbel_noise(logits)).argmax(dim=1)
    assert_close(drawn.bincount() / 20_000, torch.tensor([0.1, 0.6, 0.3]), atol=0.02, rtol=0)


def test_noise_is_for_training_alone(tiny):
    model, images = tiny().image, torch.randn(2, 3, 16, 16)
    assert torch.equal(model.eval()(images).pooled, model(images).pooled)
    torch.manual_seed(1)
    first = model.train()(images).assignments[0].used
    assert not torch.equal(first, model(images).assignments[0].used)


@pytest.mark.parametrize(
    ('stages', 'groups'),
    [
        (((1, 0, 0),), 16),  # a plain transformer
        (((1, 4, 4),), 4),  # grouping at the very end
        (((1, 6, 4), (1, 0, 0)), 4),
        (((1, 8, 8), (2, 5, 3), (1, 2, 2), (1, 0, 0)), 2),
        (((1, 4, 4), (1, 0, 0), (1, 3, 2), (1, 0, 0)), 2),  # a stage without groups between two with
    ],
)
@pytest.mark.parametrize('size', [(16, 16), (4, 4), (9, 30), (40, 12)], ids=str)
def test_any_stages_any_images(tiny, stages, groups, size):
    model = tiny(stages).eval()
    features = model.image(torch.randn(2, 3, *size))
    h, w = (side // 4 for side in size)
    count = groups if any(tokens for _, tokens, _ in stages) else h * w
    assert features.groups.shape == (2, count, 16)
    assert features.grid == (h, w)
    assert model.encode_image(torch.randn(2, 3, *size)).shape == (2, 8)
    if features.assignments:
        assert features.assignments[0].soft.shape[-1] == h * w
        assert features.assignments[-1].soft.shape[1] == groups


@pytest.mark.parametrize(
    ('spread', 'lowest', 'highest'), [(False, 1 / 6, 0.19), (True, 1 / 3, 1.0)], ids=['released', 'spread']
)
def test_groups_that_differ_are_chosen_from_the_first_step(tiny, spread, lowest, highest):
    """The mean share of a patch's first choice: 1 / 6 where it does not matter which of six it is."""
    model = tiny(width=64, spread=spread).eval()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    soft = model.image(images).assignments[0].soft  # (B, G, N)
    assert lowest < soft.max(dim=1).values.mean() < highest


def test_images_smaller_than_a_patch_are_refused(tiny):
    with pytest.raises(ValueError, match=r'smaller than a patch \(4\)'):
        tiny().encode_image(torch.randn(1, 3, 3, 16))


@pytest.mark.parametrize('options', [{'group_tokens': 4}, {'groups': 4}], ids=str)
def test_tokens_and_groups_come_together(options):
    with pytest.raises(ValueError, match='group_tokens and groups must both be'):
        StageSize(1, 16, 2, **options)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: GroupVitImageSize(16, 4, (), 8), 'at least one stage'),
        (lambda: AssignBlock(4, 'firm'), "'hard' or 'soft'"),
        (
            lambda: GroupVitSize(
                GroupVitImageSize(16, 4, (StageSize(1, 8, 2),), 8),
                {'width': 8, 'layers': 1, 'num_heads': 1, 'mlp_width': 8, 'embed_dim': 6},
            ),
            'must have the same embed_dim, got 8 and 6',
        ),
    ],
)
def test_sizes_that_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_patch_is_a_mixture_of_groups(tiny):
    model, images = tiny().eval(), torch.randn(2, 3, 8, 12)
    dense, features = model.encode_dense(images), model.image(images)
    assert dense.shape[2:] == features.grid == (2, 3)
    assert_close(features.pooled, features.groups.mean(dim=1))
    groups = model.image.project(features.groups)  # (B, G, D)
    low, high = groups.amin(dim=1)[..., None, None], groups.amax(dim=1)[..., None, None]
    assert ((dense >= low - 1e-5) & (dense <= high + 1e-5)).all()


def test_stochastic_depth_grows_along_the_blocks_of_all_stages():
    size = GroupVitImageSize(16, 4, (StageSize(2, 8, 2, 4, 4), StageSize(1, 8, 2)), 8, 8)
    stages = GroupVitEncoder(size, drop_path=0.2).stages
    drops = [block.drop_path for stage in stages for block in stage.blocks]
    assert drops == pytest.approx([0, 0.1, 0.2])


def test_gradient_checkpointing_changes_nothing(tiny):
    model, images = tiny(assign='soft').image, torch.randn(2, 3, 16, 16)
    grads = []
    for on in (False, True):
        model.gradient_checkpointing = on
        model.zero_grad()
        model(images).pooled.square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for first, second in zip(*grads, strict=True):
        assert_close(first, second)


def test_later_stages_start_from_the_tokens_of_the_one_before(tiny):
    image = tiny().image
    assert image.stages[0].group_tokens.std() > 0
    assert not image.stages[1].group_tokens.any()
    assert tiny(((1, 4, 4), (1, 0, 0), (1, 3, 2))).image.stages[2].group_tokens.std() > 0, 'nothing before'
    x = torch.randn(1, 6, 16)
    before = torch.randn(1, 6, 16)
    with_before, without = image.stages[1].eval()(x, before), image.stages[1](x)
    assert not torch.equal(with_before.x, without.x)
