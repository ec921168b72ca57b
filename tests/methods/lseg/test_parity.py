"""LSeg against official outputs: every stage, every block, the training step and the few-shot network."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize
from torch.testing import assert_close
from torchvision.models.resnet import BasicBlock

from clipdense.methods.lseg.checkpoint import from_official
from clipdense.methods.lseg.dpt import Fusion, Readout, double
from clipdense.methods.lseg.regularize import BottleneckBlock, DepthwiseBlock
from clipdense.tasks.mask_losses import pixel_cross_entropy

TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}
KERNEL = 'state.scratch.head_block.depthwise.depthwise.'


@pytest.fixture
def official(golden):
    return golden('lseg_tiny')[0]


def part(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def build(tensors, block='none', depth=1, activation='lrelu'):
    state = part(tensors, 'state.')
    return from_official(state, num_heads=4, block=block, depth=depth, activation=activation)


def words(tensors, name='input.text_features'):
    return normalize(tensors[name], dim=-1)


@pytest.mark.parametrize('image', ['image', 'image_rect'])
def test_every_stage(official, image):
    model, expected = build(official), part(official, f'output.{image}.')
    with torch.no_grad():
        tokens, grid = model.backbone.tokens(official[f'input.{image}'])
        maps = [stage(x, grid) for stage, x in zip(model.backbone.reassemble, tokens, strict=True)]
        reduced = [conv(x) for conv, x in zip(model.decoder.reduce, maps, strict=True)]
        fused = [model.decoder.fuse[3](reduced[3])]
        for stage in (2, 1, 0):
            fused.insert(0, model.decoder.fuse[stage](fused[0], reduced[stage]))
        assert_close(model.decoder(maps), fused[0])
        head = model.project(fused[0])
    for number in range(4):
        assert_close(tokens[number], expected[f'hook{number + 1}'], **TOLERANCE)
        assert_close(maps[number], expected[f'reassemble{number + 1}'], **TOLERANCE)
        assert_close(reduced[number], expected[f'layer{number + 1}_rn'], **TOLERANCE)
        assert_close(fused[number], expected[f'refinenet{number + 1}'], **TOLERANCE)
    assert_close(head, expected['head1'], **TOLERANCE)


@pytest.mark.parametrize('image', ['image', 'image_rect'])
def test_logits_without_a_block(official, image):
    with torch.no_grad():
        logits = build(official).pixel_logits(official[f'input.{image}'], words(official))
    assert_close(logits, official[f'output.{image}.logits.arch0'], **TOLERANCE)
    # Their half-precision product, for scale: what rounding costs them.
    assert_close(logits, official[f'output.{image}.logits.arch0.half'], atol=2e-2, rtol=0)


@pytest.mark.parametrize(('arch', 'block'), [(1, 'bottleneck'), (2, 'depthwise')])
@pytest.mark.parametrize(('activation', 'depth'), [('lrelu', 1), ('lrelu', 2), ('tanh', 3)])
def test_logits_with_a_block(official, arch, block, activation, depth):
    model = build(official, block, depth, activation)
    with torch.no_grad():
        logits = model.pixel_logits(official['input.image'], words(official))
    assert_close(logits, official[f'output.image.logits.arch{arch}.{activation}.d{depth}'], **TOLERANCE)


@pytest.mark.parametrize(('name', 'kind'), [('bottleneck', BottleneckBlock), ('depthwise', DepthwiseBlock)])
@pytest.mark.parametrize('activation', ['relu', 'lrelu', 'tanh'])
def test_blocks_alone(official, name, kind, activation):
    block = kind(depth=1, activation=activation)
    block.conv.load_state_dict(part(official, KERNEL))
    logits = official['input.block.x']
    with torch.no_grad():
        once = block(logits)
        block.depth = 2
        twice = block(logits)
        active = {'relu': nn.ReLU(), 'lrelu': nn.LeakyReLU(0.01), 'tanh': nn.Tanh()}[activation](once)
        assert_close(twice, block.step(active))  # the activation stands between applications
    assert_close(once, official[f'output.block.{name}.{activation}.noact'], **TOLERANCE)
    assert_close(active, official[f'output.block.{name}.{activation}'], **TOLERANCE)


@pytest.mark.parametrize('norm', ['bn', 'nobn'])
def test_fusion(official, norm):
    fusion = Fusion(8, batch_norm=norm == 'bn').eval()
    names = {'resConfUnit1': 'skip_unit', 'resConfUnit2': 'unit'}
    state = {
        '.'.join(names.get(piece, piece) for piece in key.split('.')): value
        for key, value in part(official, f'state_fusion_{norm}.').items()
    }
    fusion.load_state_dict(state)
    first, second = official[f'input.fusion.{norm}.a'], official[f'input.fusion.{norm}.b']
    with torch.no_grad():
        assert_close(fusion(first, second), official[f'output.fusion.{norm}.ab'], **TOLERANCE)
        assert_close(fusion(first), official[f'output.fusion.{norm}.a'], **TOLERANCE)


@pytest.mark.parametrize('mode', ['ignore', 'add', 'project'])
def test_readout(official, mode):
    readout = Readout(8, mode)
    readout.load_state_dict(
        {
            key.replace('project.0.', 'project.'): value
            for key, value in part(official, 'state_readout.').items()
            if mode == 'project'
        }
    )
    with torch.no_grad():
        assert_close(readout(official['input.readout']), official[f'output.readout.{mode}'], **TOLERANCE)


def test_doubling(official):
    assert_close(double(official['input.interp']), official['output.interp'], **TOLERANCE)


def test_training_step(official):
    """Logits with batch statistics, the loss with ignored pixels, and gradients at both ends."""
    model = build(official, 'bottleneck', 2).train()
    logits = model.pixel_logits(official['input.image'], words(official))
    loss = pixel_cross_entropy(logits, official['input.target'], ignore_index=-1)
    loss.backward()
    assert_close(logits, official['output.train.logits.arch1.lrelu.d2'], **TOLERANCE)
    assert_close(loss[None], official['output.train.loss'], **TOLERANCE)
    for name, parameter in {
        'scratch.head1.weight': model.project.weight,
        'head_block.weight': model.block.conv.weight,
        'patch_embed.weight': model.backbone.vit.patch_embed.proj.weight,
    }.items():
        assert_close(parameter.grad, official[f'output.train.grad.{name}'], **TOLERANCE)


class TinyResNet(nn.Module):
    """torchvision's layout in widths that torchvision does not build."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(8, 8))
        for number, (before, after) in enumerate([(8, 16), (16, 24), (24, 32)], 2):
            shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after))
            setattr(self, f'layer{number}', nn.Sequential(BasicBlock(before, after, 2, shortcut)))


def test_few_shot_network(official):
    """Two logits an image: 'others' and the class that the episode asks for."""
    model = from_official(part(official, 'state_zs_rn.'), network=TinyResNet())
    names = words(official, 'input.zs.text_features')  # 'others', then the classes
    asked = torch.stack([names[[0, at + 1]] for at in official['input.zs.class_id'].tolist()])
    with torch.no_grad():
        logits = model.pixel_logits(official['input.zs.image'], asked)
    assert_close(logits, official['output.zs.logits'], **TOLERANCE)
