"""Fused inference gives the features of the network as it is at that time, and changes nothing else."""

from __future__ import annotations

import copy
import io
import threading

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

from clipdense.clip.fused import computed_by, fused_inference
from clipdense.clip.sizes import TimmSize
from clipdense.clip.timm_tower import TimmImageTower

# architecture, options, batch norms that are left, of how many
NETWORKS = [
    ('tf_efficientnet_lite0', {}, 0),
    ('tf_efficientnet_lite0', {'output_stride': 16}, 0),
    ('mobilenetv3_small_050', {}, 0),
    ('resnet10t', {}, 0),
    ('fastvit_t8', {}, 0),
    ('repvgg_a0', {}, 0),
    ('nf_regnet_b0', {}, None),
    ('convnext_atto', {}, None),
    ('resnetv2_18', {}, 9),  # norms before convolutions stay
    ('vit_tiny_patch16_224', {}, None),
]
IMAGES = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))


def network(name='resnet10t', **options):
    """A network with random statistics, in evaluation mode."""
    torch.manual_seed(0)
    found = timm.create_model(name, num_classes=0, **options).eval()
    for layer in found.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.2)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
    return found


def fused(one):
    with torch.no_grad(), fused_inference():
        return computed_by(one)


def norms(one):
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in one.modules())


def check_features(one):
    """The fused features are those of the network as it is now."""
    with torch.no_grad():
        expected = one.forward_features(IMAGES)
        found = fused(one).forward_features(IMAGES)
    assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize(('name', 'options', 'left'), NETWORKS)
def test_the_features_are_the_same(name, options, left):
    one = network(name, **options)
    before = {key: tensor.clone() for key, tensor in one.state_dict().items()}
    if left is None:
        assert fused(one) is one
        return
    assert norms(one) > 0
    assert norms(fused(one)) == left
    check_features(one)
    assert fused(one) is fused(one)
    assert_close(one.state_dict(), before, atol=0, rtol=0)
    assert all(parameter.requires_grad for parameter in one.parameters())


def test_parameters_that_are_not_fused_are_shared():
    one = timm.create_model('tf_efficientnet_lite0').eval()
    assert fused(one).classifier.weight is one.classifier.weight
    assert fused(one).conv_stem.weight is not one.conv_stem.weight


def edit_in_place(one):
    with torch.no_grad():
        one.layer1[0].conv1.weight.mul_(2)


def edit_one_number(one):
    with torch.no_grad():
        one.layer1[0].conv1.weight[3, 1, 2, 0] += 1


def edit_data(one):
    one.layer1[0].conv1.weight.data.mul_(2)


def edit_a_filter_of_data(one):
    one.layer1[0].conv1.weight.data[3].zero_()


def swap_data(one):
    one.layer1[0].conv1.weight.data = 2 * one.layer1[0].conv1.weight.data


def replace_parameter(one):
    one.layer1[0].conv1.weight = nn.Parameter(2 * one.layer1[0].conv1.weight.detach())


def replace_layer(one):
    one.layer1[0].conv1 = nn.Conv2d(64, 64, 3, padding=1).eval()


def load(one):
    one.load_state_dict({name: 1.5 * tensor.abs() for name, tensor in one.state_dict().items()})


def assign(one):
    one.load_state_dict({name: 1.5 * x.abs() for name, x in one.state_dict().items()}, assign=True)


@torch.enable_grad()
def train(one):
    optimizer = torch.optim.AdamW(one.train().parameters(), lr=0.01)
    one.forward_features(IMAGES).mean().backward()
    optimizer.step()
    one.eval()


def new_statistics(one):
    one.train()
    with torch.no_grad():
        one.forward_features(IMAGES)
    one.eval()


EDITS = [
    edit_in_place,
    edit_one_number,
    edit_data,
    edit_a_filter_of_data,
    swap_data,
    replace_parameter,
    replace_layer,
    load,
    assign,
    train,
    new_statistics,
]


@pytest.mark.parametrize('edit', EDITS, ids=lambda edit: edit.__name__)
def test_a_change_is_noticed(edit):
    one = network()
    with torch.no_grad():
        before, known = one.forward_features(IMAGES), fused(one)
        edit(one)
        assert not torch.allclose(one.forward_features(IMAGES), before, atol=1e-3)
    assert fused(one) is not known
    assert norms(fused(one)) == 0
    check_features(one)


class Doubled(nn.Conv2d):
    """A layer whose weights are not all that it does, as those of low-rank adaption."""

    def forward(self, x):
        return 2 * super().forward(x)


def add_hook(one):
    one.layer1[0].conv1.register_forward_hook(lambda layer, given, output: 2 * output)


def add_input_hook(one):
    one.layer1[0].conv1.register_forward_pre_hook(lambda layer, given: (2 * given[0],))


def add_parametrization(one):
    parametrizations.weight_norm(one.layer1[0].conv1)


def replace_forward(one):
    own = one.layer1[0].conv1
    own.forward = lambda x: 2 * nn.Conv2d.forward(own, x)


def train_a_norm(one):
    one.layer1[0].bn1.train()


UNFUSED = [
    add_hook,
    add_input_hook,
    add_parametrization,
    replace_forward,
    train_a_norm,
    nn.Module.train,
    nn.Module.half,
    nn.Module.double,
    nn.Module.bfloat16,
    lambda one: one.to('meta'),
]


@pytest.mark.parametrize('after', [False, True], ids=['before', 'after the first call'])
@pytest.mark.parametrize('edit', UNFUSED)
def test_what_is_not_plain_is_computed_as_it_is(edit, after):
    one = network()
    if after:
        fused(one)
    edit(one)
    assert fused(one) is one


def test_a_layer_of_another_kind_is_kept():
    one = network()
    fused(one)
    one.layer1[0].conv1 = Doubled(64, 64, 3, padding=1).eval()
    assert norms(fused(one)) == 1
    check_features(one)


def test_only_in_the_context_of_the_thread_and_without_gradients():
    one, found = network(), []
    with fused_inference():
        assert computed_by(one) is one
        with torch.no_grad():
            assert computed_by(one) is not one
            with torch.autocast('cpu', torch.bfloat16):
                assert computed_by(one) is one
            thread = threading.Thread(target=lambda: found.append(computed_by(one)))
            thread.start()
            thread.join()
    with torch.no_grad():
        assert computed_by(one) is one
    assert found == [one]


def test_copies_and_pickles_are_those_of_the_network():
    one = network()

    def pickled():
        torch.save(one, file := io.BytesIO())
        return len(file.getvalue())

    size = pickled()
    fused(one)
    assert pickled() == size
    other = copy.deepcopy(one)
    with torch.no_grad():
        other.layer1[0].conv1.weight.mul_(2)
    check_features(other)
    check_features(one)


@torch.no_grad()
def test_towers():
    """Every way to encode; a copy at full stride is another network."""
    torch.manual_seed(0)
    size = TimmSize(
        'tf_efficientnet_lite0', 64, 8, projection='linear', options={'num_classes': 0, 'output_stride': 16}
    )
    tower = TimmImageTower(size).eval()
    for one in (tower, tower.at_full_stride()):
        for encode in (
            one.pooled,
            one.encode_dense,
            one.encode_patches,
            lambda images, one=one: one.encode_stages(images, [1, 2])[1],
        ):
            expected = encode(IMAGES)
            with fused_inference():
                assert_close(encode(IMAGES), expected, atol=1e-5, rtol=1e-5)
        assert norms(fused(one.trunk)) == 0
    known = fused(tower.trunk)
    assert fused(tower.train().eval().trunk) is not known  # dropped in training
