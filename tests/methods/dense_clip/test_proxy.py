"""Backbones of timm as proxies; small ones, without weights."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from clipdense.methods.dense_clip.proxy import TimmProxy, create_backbone, save_backbone
from clipdense.utils.errors import InputError
from clipdense.weights.io import read_weights, write_weights

VIT, SMALL = (
    'vit_tiny_patch16_224',
    {'img_size': 32, 'patch_size': 4, 'embed_dim': 32, 'depth': 1, 'num_heads': 2},
)


@pytest.mark.parametrize(
    ('name', 'patch', 'size', 'grid'),
    [
        ('vit_tiny_patch16_224', 16, (64, 96), (4, 6)),
        ('vit_tiny_patch16_224', 16, (60, 90), (4, 6)),  # stretched to whole patches
        ('resnet10t', 32, (64, 96), (2, 3)),
    ],
)
def test_features(name, patch, size, grid):
    proxy = TimmProxy(name, weights=False)
    assert proxy.patch_size == patch
    features = proxy(torch.randn(2, 3, *size))
    assert features.shape[-2:] == grid
    assert not features.requires_grad
    assert not proxy.train().backbone.training


def test_images_are_normalized_as_the_backbone_wants_them():
    proxy = TimmProxy('resnet10t', mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), weights=False)
    seen = []
    proxy.backbone.forward_intermediates = lambda images, **_: seen.append(images) or [images]
    image = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    proxy((image - mean) / std)
    own = proxy.backbone.pretrained_cfg
    mean, std = (torch.tensor(own[part]).view(3, 1, 1) for part in ('mean', 'std'))
    assert_close(seen[0], (image - mean) / std)


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(1)
    first = TimmProxy('resnet10t', weights=False)
    path = tmp_path / 'backbone.pt'
    torch.save(first.backbone.state_dict(), path)
    second = TimmProxy('resnet10t', weights=path)
    images = torch.randn(1, 3, 64, 64)
    assert_close(first(images), second(images))


def test_a_name_with_a_file(tmp_path):
    path = tmp_path / 'with_classifier.pth'
    first = TimmProxy('resnet10t', weights=False)
    classifier = {'fc.weight': torch.zeros(10, 512), 'fc.bias': torch.zeros(10)}
    torch.save({**first.backbone.state_dict(), **classifier}, path)
    images = torch.randn(1, 3, 64, 64)
    assert_close(first(images), TimmProxy(f'resnet10t={path}')(images))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / 'proxy.safetensors'
    save_backbone(path, create_backbone(VIT, SMALL), VIT, SMALL)
    return path


def test_a_file_that_says_what_it_holds(saved):
    proxy = TimmProxy(str(saved))
    assert proxy.patch_size == 4
    assert proxy(torch.randn(1, 3, 32, 48)).shape == (1, 32, 8, 12)
    stored = read_weights(saved).tensors
    assert_close(proxy.backbone.state_dict(), stored)
    untrained = TimmProxy(str(saved), weights=False).backbone.state_dict()
    assert not torch.equal(untrained['blocks.0.mlp.fc1.weight'], stored['blocks.0.mlp.fc1.weight'])


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('vit_tini_patch16_224', r"timm has no backbone 'vit_tini_patch16_224'.*'vit_tiny_"),
        ('{folder}/none.safetensors', r'none.safetensors'),
        (f'{VIT}={{folder}}/none.pth', r'none.pth'),
        ('{folder}/silent.safetensors', r'does not record its timm model: .*_patch8_224.dino=.*silent'),
        ('{folder}/broken.safetensors', r'broken.safetensors has an invalid record of its timm model'),
        ('{folder}/sly.safetensors', r'sly.safetensors has an invalid record .*: arguments must be numbers'),
        (f'{VIT}={{folder}}/proxy.safetensors', rf'proxy.safetensors has patch size 4, but {VIT} has 16'),
        ('resnet10t={folder}/proxy.safetensors', r'does not match ResNet: none of its tensors match'),
    ],
    ids=['name', 'no file', 'no file of a name', 'silent', 'broken', 'sly', 'other patch', 'other model'],
)
def test_refusals(saved, tmp_path, name, message):
    tensors = read_weights(saved).tensors
    sly = json.dumps({'name': VIT, 'arguments': {'checkpoint_path': 'elsewhere.pth'}})
    for file, metadata in {'silent': {}, 'broken': {'timm': '{"name": 3}'}, 'sly': {'timm': sly}}.items():
        write_weights(tmp_path / f'{file}.safetensors', tensors, metadata)
    with pytest.raises(InputError, match=message) as refusal:
        TimmProxy(name.format(folder=tmp_path))
    assert '\n' not in str(refusal.value)


def test_arguments_that_the_model_does_not_take():
    with pytest.raises(InputError, match=r"timm cannot build .*\{'patches': 4\}: .*patches"):
        TimmProxy(VIT, weights=False, arguments={'patches': 4})


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / 'tools'))
    return importlib.import_module('proxy_scenes')


def test_the_script_that_trains_one(script, tmp_path, monkeypatch, capsys):
    path = tmp_path / 'proxy.safetensors'
    monkeypatch.setattr(sys, 'argv', ['proxy_scenes', '--out', str(path), '--images', '64', '--steps', '2'])
    script.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])['proxy'] == str(path)
    assert TimmProxy(str(path))(torch.randn(1, 3, 32, 32)).shape == (1, 96, 8, 8)


def test_patches_are_spread_evenly_over_clusters(script):
    found = script._evenly(torch.randn(512, 8) + torch.arange(8.0))
    assert_close(found.sum(dim=1), torch.ones(512))
    assert_close(found.sum(dim=0), torch.full((8,), 64.0), rtol=0.05, atol=0)


def test_the_copy_follows_slowly(script):
    model = script.PatchClusters(arguments=SMALL, momentum=0.75)
    with torch.no_grad():
        model.student.norm.weight += 1
    model(torch.randn(2, 3, 32, 32))
    assert_close(model.teacher.norm.weight, torch.full((32,), 1.25))
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
