"""Weight decay and learning rate of each parameter."""

from __future__ import annotations

import pytest
from torch import nn

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.layers.parameter_groups import parameter_groups
from clipdense.utils.errors import InputError

TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=32, embed_dim=8, vocab_size=50, context_length=7)
VIT = VitSize(image_size=16, patch_size=8, width=16, layers=1, num_heads=2, mlp_width=32, embed_dim=8)
RESNET = ResNetSize(image_size=64, width=8, layers=(1, 1, 1, 1), num_heads=2, embed_dim=8)
TOWERS = {'vit': VitSize(16, 8, 16, 2, 2, 32, 8), 'resnet': RESNET}


def undecayed(model, rule='open_clip'):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[p] for g in parameter_groups(model, 0.2, rule) if not g['weight_decay'] for p in g['params']
    }


@pytest.mark.parametrize('image', [VIT, RESNET], ids=['vit', 'resnet'])
@pytest.mark.parametrize('rule', ['open_clip', 'open_clip 3.3.0', 'slip'])
def test_each_parameter_is_in_one_group(image, rule):
    model = build_clip(ClipSize(image, TEXT, logit_bias=True))
    groups = parameter_groups(model, 0.2, rule)
    listed = [id(p) for group in groups for p in group['params']]
    assert sorted(listed) == sorted(map(id, model.parameters()))
    free = undecayed(model, rule)
    assert {'logit_scale', 'logit_bias', 'text.norm_post.weight'} <= free
    decayed = {name for name, _ in model.named_parameters()} - free
    assert {'text.token_embed.weight', 'text.proj'} <= decayed
    assert not [name for name in decayed if name.endswith('bias') or 'norm' in name or 'bn' in name]


@pytest.mark.parametrize(
    ('rule', 'positions', 'class_token'),
    [('open_clip', True, True), ('open_clip 3.3.0', False, True), ('slip', False, False)],
)
def test_rules_differ_in_position_embeddings_and_class_tokens(rule, positions, class_token):
    names = undecayed(build_clip(ClipSize(VIT, TEXT)), rule)
    for name in ('image.pos_embed', 'text.pos_embed'):
        assert (name in names) == positions
    assert ('image.class_token' in names) == class_token


def test_all_parameters_decay():
    assert undecayed(build_clip(ClipSize(VIT, TEXT, logit_bias=True)), 'all') == set()


def test_frozen_parameters_are_left_out():
    model = build_clip(ClipSize(VIT, TEXT))
    model.image.requires_grad_(False)
    listed = {id(p) for group in parameter_groups(model, 0.2) for p in group['params']}
    assert listed == {id(p) for p in [*model.text.parameters(), model.logit_scale]}


def test_rates_fall_with_the_distance_from_the_output():
    model = build_clip(ClipSize(VIT, TEXT))  # one block: groups 0 (embedding), 1 (block), 2 (projection)
    groups = parameter_groups(model, 0.2, layer_decay={'image': 0.5}, lr=8.0)
    rates = {id(p): group.get('lr', 8.0) for group in groups for p in group['params']}
    expected = {
        'image.patch_embed.weight': 2.0,
        'image.class_token': 2.0,
        'image.blocks.0.norm1.weight': 4.0,
        'image.proj': 8.0,
        'text.token_embed.weight': 8.0,
        'logit_scale': 8.0,
    }
    parameters = dict(model.named_parameters())
    assert {name: rates[id(parameters[name])] for name in expected} == expected
    assert len(rates) == len(parameters)


def test_rates_of_parts():
    model = build_clip(ClipSize(VIT, TEXT))
    groups = parameter_groups(
        model, 0.2, layer_decay={'image': 0.5}, lr=8.0, lr_factors={'text': 0.1, 'image': 2}
    )
    rates = {id(p): group.get('lr', 8.0) for group in groups for p in group['params']}
    parameters = dict(model.named_parameters())
    expected = {
        'text.token_embed.weight': 0.8,
        'image.class_token': 4.0,
        'image.proj': 16.0,
        'logit_scale': 8.0,
    }
    assert {name: rates[id(parameters[name])] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ('factors', 'message'),
    [
        ({'txet': 0.1}, "lr_factors names 'txet', which the model does not have.*'text'"),
        ({'tex': 0.1}, 'its parts are image, text'),
        ({'text': 0}, 'must be a number above 0, got 0'),
        ({'text': 'x'}, "must be a number above 0, got 'x'"),
    ],
)
def test_wrong_rates_of_parts(factors, message):
    with pytest.raises(InputError, match=message):
        parameter_groups(build_clip(ClipSize(VIT, TEXT)), 0.2, lr_factors=factors)


def test_shared_parameters_are_listed_once():
    model = nn.Module()
    model.a = nn.Linear(3, 3)
    model.b = model.a
    assert sum(len(group['params']) for group in parameter_groups(model, 0.1)) == 2


@pytest.mark.parametrize(
    ('rule', 'freeze', 'message'),
    [('openclip', False, "Did you mean 'open_clip'"), ('open_clip', True, 'all parameters are frozen')],
)
def test_refusals(rule, freeze, message):
    with pytest.raises(InputError, match=message):
        parameter_groups(nn.Linear(2, 2).requires_grad_(not freeze), 0.1, rule)


LAYERS = {  # parameter -> distance from the last layer
    'vit': {'tower.patch_embed.weight': 3, 'tower.pos_embed': 3, 'tower.blocks.0.mlp.fc1.weight': 2}
    | {'tower.blocks.1.norm1.weight': 1, 'tower.norm_post.weight': 0, 'classifier.weight': 0},
    'resnet': {'tower.conv1.weight': 5, 'tower.layer1.0.conv1.weight': 4, 'tower.layer4.0.bn1.bias': 1}
    | {'tower.attn_pool.q.weight': 0, 'classifier.bias': 0},
}


@pytest.mark.parametrize('tower', LAYERS)
def test_distances_from_the_output(tower):
    model = nn.Module()
    model.tower = build_clip(ClipSize(TOWERS[tower], TEXT)).image
    model.classifier = nn.Linear(2, 2)
    groups = parameter_groups(model, 0.1, layer_decay={'tower': 0.5})
    found = {id(p): group for group in groups for p in group['params']}
    assert len(found) == len(list(model.parameters()))
    for name, distance in LAYERS[tower].items():
        group = found[id(model.get_parameter(name))]
        assert group.get('lr', 1.0) == 0.5**distance, name
        decayed = model.get_parameter(name).ndim > 1 and not name.endswith('pos_embed')
        assert group['weight_decay'] == (0.1 if decayed else 0.0), name
