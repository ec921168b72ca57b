"""Feature maps of timm: its own, by their strides, with the names of its tensors."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from clipdense.clip import timm_maps
from clipdense.clip.timm_maps import TimmMaps
from clipdense.registry import build_module
from clipdense.utils.errors import InputError

timm = pytest.importorskip('timm')
RESNET = dict(type=TimmMaps, name='resnet10t')


@pytest.mark.parametrize(
    ('name', 'strides', 'indices'),
    [
        ('resnet18', (4, 8, 16, 32), (1, 2, 3, 4)),
        ('resnet10t', (8, 32), (2, 4)),
        ('convnext_atto', (8, 16, 32), (1, 2, 3)),
    ],
)
def test_maps_and_tensor_names_are_those_of_timm(name, strides, indices):
    maps = TimmMaps(name, strides).eval()
    own = timm.create_model(name, features_only=True, out_indices=indices).eval()
    assert list(maps.state_dict()) == [f'body.{key}' for key in own.state_dict()]
    own.load_state_dict({key.removeprefix('body.'): value for key, value in maps.state_dict().items()})
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = maps(images), own(images)
    assert [64 // one.shape[-1] for one in found] == list(strides)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_weights_of_timm_are_asked_for_when_training_begins(monkeypatch):
    asked, create = [], timm.create_model

    def created(*arguments, pretrained=False, **options):
        asked.append(pretrained)
        return create(*arguments, **options)

    monkeypatch.setattr(timm_maps.timm, 'create_model', created)
    maps = TimmMaps('resnet10t', pretrained=True)
    assert not any(asked)  # also where a file with the trained weights is read
    before = maps.body.conv1[0].weight.clone()
    maps.init_weights()
    assert asked[-1]
    assert not torch.equal(before, maps.body.conv1[0].weight)


def test_maps_of_a_swin_are_channels_first():
    maps = build_module(dict(type=TimmMaps, name='swin_tiny_patch4_window7_224', img_size=64))(
        torch.zeros(1, 3, 64, 64)
    )
    assert [tuple(one.shape[1:]) for one in maps] == [(192, 8, 8), (384, 4, 4), (768, 2, 2)]


def test_training_begins_with_weights_of_timm(tmp_path):
    whole = timm.create_model('resnet10t')
    save_file(whole.state_dict(), tmp_path / 'resnet.safetensors')
    model = build_module({**RESNET, 'weights': tmp_path / 'resnet.safetensors'})
    assert not torch.equal(model.body.layer4[0].conv1.weight, whole.layer4[0].conv1.weight)
    model.init_weights()
    assert torch.equal(model.body.layer4[0].conv1.weight, whole.layer4[0].conv1.weight)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'name': 'convnext_ato'}, "timm has no model 'convnext_ato'.*convnext_atto"),
        ({'name': 'resnet10t', 'strides': (8, 64)}, 'has no map of stride 64, but of 2, 4, 8, 16, 32'),
        ({'name': 'vit_tiny_patch16_224'}, r'has no map of stride 8, but of 16: set strides=\(16,\)'),
        ({'name': 'resnet10t', 'depth_of': 3}, 'timm cannot build'),
        ({'name': 'resnet10t', 'pretrained': True, 'weights': 'a.pth'}, 'give weights or pretrained=True'),
    ],
)
def test_other_backbones_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        TimmMaps(**options)
