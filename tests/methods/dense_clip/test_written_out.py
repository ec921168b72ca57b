"""Methods without official outputs, against their papers' formulas, one image and one head at a time.

The tower has twelve blocks, for which the papers name their layers; images are square and not.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.clip.dense import LastAttention
from clipdense.clip.sizes import VitSize
from clipdense.clip.vit import VisionTransformer
from clipdense.methods.dense_clip.affinities import neighbourhood
from clipdense.methods.dense_clip.functions import cosines, find_dense_method
from clipdense.methods.dense_clip.outliers import find_outliers, repair
from clipdense.methods.dense_clip.resclip import same_object

SIZES = [(32, 32), (24, 40)]


@pytest.fixture(scope='module')
def tower():
    torch.manual_seed(0)
    size = VitSize(image_size=32, patch_size=4, width=16, layers=12, num_heads=2, mlp_width=32, embed_dim=8)
    return VisionTransformer(size).eval().requires_grad_(False)


def tokens_of(tower, images):
    """What each block gives, first entry the input of the first: 13 of (1, T, C); and the grid."""
    x, grid = tower.embed(images)
    found = [x]
    for block in tower.blocks:
        x = block(x)
        found.append(x)
    return found, grid


def heads(block, x):
    """Query, key and value of (N, C): two heads of eight numbers each."""
    normed = F.layer_norm(x, (16,), block.norm1.weight, block.norm1.bias, 1e-5)
    packed = normed @ block.attn.qkv.weight.mT + block.attn.qkv.bias
    return [part.view(-1, 2, 8).transpose(0, 1) for part in packed.split(16, dim=-1)]


def out(block, mixed):
    """(2, N, 8) -> (N, C)."""
    return mixed.transpose(0, 1).reshape(-1, 16) @ block.attn.proj.weight.mT + block.attn.proj.bias


def to_joint(tower, x):
    return F.layer_norm(x, (16,), tower.norm_post.weight, tower.norm_post.bias, 1e-5) @ tower.proj


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_sc_clip(tower, size):
    images = torch.randn(1, 3, *size)
    after, grid = tokens_of(tower, images)
    last, block = after[11][0], tower.blocks[-1]  # input of the last block
    outliers = find_outliers(last[None, 1:], 30, 0.05)
    middle = F.normalize(repair(after[9][:, 1:], outliers, grid)[0], dim=-1)  # what block 8 gave, from 0
    early = F.normalize(after[4][0, 1:], dim=-1)  # block 3
    middle, early = middle @ middle.mT, early @ early.mT

    def average(x, alike):
        weight = torch.where(alike < 0.4, 0, alike)
        return weight @ x / (weight.sum(dim=1, keepdim=True) + 1e-6)

    def attend(x, class_token):
        gate = (middle - middle.mean()) * 3
        gate[gate < 0] = -torch.inf
        _, key, value = heads(block, x)
        weights = [(gate.softmax(dim=-1) + (one @ one.mT / 8**0.5).softmax(dim=-1)) / 2 for one in key]
        return out(block, torch.stack(weights) @ value) + 0.3 * class_token

    first = average(attend(average(repair(last[None, 1:], outliers, grid)[0], middle), last[0]), early)
    total = sum(after[index + 1][0] for index in range(3, 10))
    second = average(attend(total[1:], total[0]), early)
    got = find_dense_method('sc_clip').embed(tower, images)
    assert_close(got[0].flatten(1).mT, to_joint(tower, first + second), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_clip_surgery(tower, size):
    images = torch.randn(1, 3, *size)
    after, _ = tokens_of(tower, images)
    stream = after[6][0]
    for index in range(6, 12):  # the last six, each fed by the tower's own path
        _, _, value = heads(tower.blocks[index], after[index][0])
        mixed = torch.stack([(one @ one.mT / 8**0.5).softmax(dim=-1) @ one for one in value])
        stream = stream + out(tower.blocks[index], mixed)
    embeddings, pooled = find_dense_method('clip_surgery').embed(tower, images)
    assert_close(embeddings[0].flatten(1).mT, to_joint(tower, stream)[1:], atol=1e-5, rtol=1e-4)
    assert_close(pooled, to_joint(tower, after[12][:, 0]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('base', ['sclip', 'clearclip', 'naclip'])
def test_resclip(tower, size, base):
    images, text = torch.randn(1, 3, *size), F.normalize(torch.randn(4, 8), dim=-1)
    after, grid = tokens_of(tower, images)
    block, x = tower.blocks[-1], after[11][0]
    crossed = torch.zeros(2, len(x), len(x))
    for index in range(5, 9):  # the paper's layers 6 to 9
        query, key, _ = heads(tower.blocks[index], after[index][0])
        crossed += (query @ key.mT / 8**0.5).softmax(dim=-1) / 4
    query, key, value = heads(block, x)
    parts = {'sclip': [query, key], 'clearclip': [query], 'naclip': [key]}[base]
    near = neighbourhood(grid, 5.0, 1, x) if base == 'naclip' else torch.zeros(())

    def answer(same=None):
        weights = torch.zeros_like(crossed)
        for part in parts:
            logits = part @ part.mT / 8**0.5
            if same is not None:
                logits = 2.2 * (0.3 * logits + 0.7 * same)
            weights += (logits + near).softmax(dim=-1)
        mixed = out(block, 2.0 * (0.7 * weights + 0.3 * crossed) @ value)
        if base == 'sclip':
            mixed = x + mixed
            mixed = mixed + block.mlp(block.norm2(mixed))
        return to_joint(tower, mixed)[1:]

    scores = F.normalize(answer(), dim=-1) @ text.mT
    same = torch.zeros_like(crossed[0])
    same[1:, 1:] = same_object(scores.argmax(dim=-1).view(1, *grid), 5.0)[0]
    expected = F.normalize(answer(same), dim=-1) @ text.mT

    method = find_dense_method('resclip', {'base': base})
    embeddings, *others = method.embed(tower, images)
    features = (F.normalize(embeddings, dim=1), *others)
    assert_close(cosines(features[0], text)[0].flatten(1).mT, scores, atol=1e-5, rtol=1e-4)
    assert_close(method.read(tower, features, text)[0].flatten(1).mT, expected, atol=1e-5, rtol=1e-4)


def test_the_last_attention_untouched_is_the_tower(tower):
    images = torch.randn(2, 3, 24, 40)
    inputs, grid = tower.forward_layers(images, [-1])
    last = LastAttention(tower, inputs[-1], grid)
    got = last.embed(last.attend(last.query, last.key), residual=True)
    features = tower(images)
    assert_close(got, tower.project_patches(features.patch_tokens, features.grid), atol=1e-5, rtol=1e-4)
